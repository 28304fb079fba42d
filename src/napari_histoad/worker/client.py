"""The window's end: starts the background process, sends it requests and passes its events on; no Qt, no torch."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from napari_histoad.errors import WorkerError
from napari_histoad.worker.protocol import Cancel, Cancelled, Failed, Progressed, Request, parse_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from napari_histoad.worker.protocol import Arguments, Event

_GRACE_SECONDS = 0.8


class WorkerClient:
    """Runs one job at a time in a child process that stays alive between jobs and is replaced if it dies.

    ``on_event`` is called **from a reading thread** with every event of the running job, see `napari_histoad.worker.protocol`.
    When the child dies, the running job ends with `Failed`.
    """

    def __init__(self, on_event: Callable[[Event], object]) -> None:
        self._on_event = on_event
        self._process: subprocess.Popen[str] | None = None
        self._numbers = itertools.count(1)
        self._current: int | None = None
        self._lock = threading.RLock()

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._current is not None

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None if it is not running."""
        alive = self._process is not None and self._process.poll() is None
        return self._process.pid if alive and self._process is not None else None

    def start(self) -> None:
        """Start the child now, so that the first job does not have to wait for it."""
        with self._lock:
            if self.pid is not None:
                return
            # A new interpreter, not multiprocessing, which would import napari's main module again.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "napari_histoad.worker"],
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},  # waiting OpenMP threads leave the cores to decoding
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                bufsize=1,
            )
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def submit(self, args: Arguments) -> int:
        """Start the job that takes these arguments and return its number; its events follow."""
        with self._lock:
            self.start()
            assert self._process is not None
            number = next(self._numbers)
            self._current = number
            _send(self._process, Request(id=number, args=args))
            return number

    def cancel(self) -> None:
        """Stop the running job: ask the process, and kill it after 0.8 s. Files are written atomically: none is left half."""
        with self._lock:
            number, process = self._current, self._process
            if number is None or process is None:
                return
            _send(process, Cancel(cancel=number))

        def insist() -> None:
            with self._lock:
                if self._current != number:
                    return
                self._current = None
                if self._process is process:
                    self._process = None  # a job submitted from now on needs a new process
            process.kill()
            self._on_event(Cancelled(id=number))
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
        with contextlib.suppress(ValueError, OSError):  # close() has closed the stream
            for line in process.stdout:
                try:
                    event = parse_event(line)
                except ValueError:  # printed by a library before stdout was redirected
                    logging.getLogger(__name__).warning("background process: %s", line.rstrip())
                    continue
                with self._lock:
                    if event.id != self._current:
                        continue
                    if not isinstance(event, Progressed):
                        self._current = None
                self._on_event(event)
        code = process.wait()
        with self._lock:
            number = self._current if self._process is process else None
            if number is None:
                return
            self._current = None
        remedy = "click again to continue where it stopped, and close other programs if memory ran out"
        self._on_event(Failed.of(number, WorkerError(f"the background process ended unexpectedly (code {code})", remedy)))


def _send(process: subprocess.Popen[str], message: BaseModel) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it has just died: the reading thread reports it
        process.stdin.write(message.model_dump_json() + "\n")
        process.stdin.flush()
