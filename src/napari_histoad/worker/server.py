"""The process's own end: reads requests from stdin, runs one job at a time, writes events to stdout."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import TYPE_CHECKING, Any

from napari_histoad.errors import HistoadError, SettingsError
from napari_histoad.worker.jobs import JOBS, let_go
from napari_histoad.worker.protocol import progress_event

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]


class _Server:
    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._cancelled: set[int] = set()
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Read requests until the parent goes away; then there is nobody to work for."""
        for line in sys.stdin:
            message = json.loads(line)
            if "cancel" in message:
                self._cancelled.add(message["cancel"])
            else:
                self._requests.put(message)
        os._exit(0)

    def serve(self) -> None:
        while True:
            request = self._requests.get()
            self._run(request["id"], request["job"], request.get("args", {}))

    def _run(self, number: int, name: str, args: dict[str, Any]) -> None:
        job = None
        try:
            if name not in JOBS:
                raise SettingsError(f"there is no job named {name!r}", f"known are {', '.join(JOBS)}")
            if name != "explain":
                let_go()
            job = JOBS[name](args)
            while True:
                if number in self._cancelled:
                    self._send({"id": number, "event": "cancelled"})
                    return
                try:
                    progress = next(job)
                except StopIteration as stop:
                    self._send({"id": number, "event": "result", "result": stop.value})
                    return
                self._send({"id": number, "event": "progress", **progress_event(progress)})
        except HistoadError as err:
            self._send({"id": number, "event": "error", "kind": type(err).__name__, "what": err.what, "remedy": err.remedy})
        except Exception as err:  # noqa: BLE001 - the last line of defence: the user gets a sentence, the log the trace
            import traceback

            traceback.print_exc()
            what = f"{name} failed unexpectedly ({type(err).__name__}: {str(err)[:200]})"
            self._send(
                {
                    "id": number,
                    "event": "error",
                    "kind": "HistoadError",
                    "what": what,
                    "remedy": "see the terminal for details, and please report it",
                }
            )
        finally:
            if job is not None:
                job.close()


def main() -> None:
    """Serve until stdin closes."""
    # Libraries that print must not garble the protocol: stdout becomes stderr, events keep the real one.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lock = threading.Lock()

    def send(event: dict[str, Any]) -> None:
        with lock:
            try:
                out.write(json.dumps(event) + "\n")
                out.flush()
            except (BrokenPipeError, OSError):
                os._exit(0)

    server = _Server(send)
    threading.Thread(target=server.listen, daemon=True).start()
    import napari_histoad.engine  # noqa: F401 - warm up: the first click should not wait for torch

    send({"id": 0, "event": "ready"})
    server.serve()
