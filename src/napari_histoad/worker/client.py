"""The GUI's end of the background process; no Qt, no torch."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WorkerClient"]

_GRACE_SECONDS = 0.8


class WorkerClient:
    """Runs one job at a time in a child process that is kept warm, and replaced when it dies.

    Parameters
    ----------
    on_event : callable
        Called **from a reading thread** with every event, see `napari_histoad.worker.protocol`. A child that dies
        gives the event ``{"event": "died"}`` for the job at hand.
    """

    def __init__(self, on_event: Callable[[dict[str, Any]], object]) -> None:
        self._on_event = on_event
        self._process: subprocess.Popen[str] | None = None
        self._numbers = itertools.count(1)
        self._current: int | None = None
        self._lock = threading.RLock()

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._current is not None

    @property
    def pid(self) -> int | None:
        """Process id of the child, if it lives."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if alive and self._process is not None else None

    def start(self) -> None:
        """Start the child now, so that the first job need not wait for it."""
        with self._lock:
            if self.pid is not None:
                return
            # -m with our own interpreter, not multiprocessing: nothing of napari's main module is imported again.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "napari_histoad.worker"],
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},  # waiting threads do not spin on cores that decode
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                bufsize=1,
            )
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def submit(self, job: str, args: dict[str, Any]) -> int:
        """Start a job and return its number; its events follow."""
        with self._lock:
            self.start()
            assert self._process is not None
            assert self._process.stdin is not None
            number = next(self._numbers)
            self._current = number
            with contextlib.suppress(OSError):  # it died just now: the reading thread says so
                self._process.stdin.write(json.dumps({"id": number, "job": job, "args": args}) + "\n")
                self._process.stdin.flush()
            return number

    def cancel(self) -> None:
        """Stop the job at hand: ask, and after 0.8 s end the process. What is on disk stays whole either way."""
        with self._lock:
            number, process = self._current, self._process
            if number is None or process is None or process.stdin is None:
                return
            with contextlib.suppress(OSError):
                process.stdin.write(json.dumps({"cancel": number}) + "\n")
                process.stdin.flush()

        def insist() -> None:
            with self._lock:
                if self._current != number:
                    return
                self._current = None
                if self._process is process:
                    self._process = None  # a job that is submitted from now on needs another process
            process.kill()
            self._on_event({"id": number, "event": "cancelled"})
            process.wait()
            self.start()

        timer = threading.Timer(_GRACE_SECONDS, insist)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """End the child."""
        with self._lock:
            process, self._process, self._current = self._process, None, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed under our feet by close()
            for line in process.stdout:
                event = json.loads(line)
                with self._lock:
                    if event["id"] != self._current:
                        continue
                    if event["event"] != "progress":
                        self._current = None
                self._on_event(event)
        code = process.wait()
        with self._lock:
            number = self._current if self._process is process else None
            if number is None:
                return
            self._current = None
        self._on_event({"id": number, "event": "died", "code": code})
