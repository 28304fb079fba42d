"""The process's end: reads requests from stdin, runs one job at a time, writes events to stdout."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from napari_histoad.errors import HistoadError, SettingsError, first_error
from napari_histoad.worker.protocol import Cancel, Cancelled, Event, Failed, Finished, Progressed, Request

if TYPE_CHECKING:
    from collections.abc import Callable


class _Server:
    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._cancelled: set[int] = set()
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen(self) -> None:
        """Read requests until the window's process has ended, then end this one."""
        for line in sys.stdin:
            message = json.loads(line)
            if "cancel" in message:
                self._cancelled.add(Cancel.model_validate(message).cancel)
            else:
                self._requests.put(message)
        os._exit(0)

    def serve(self) -> None:
        """Run the requested jobs one after the other."""
        while True:
            message = self._requests.get()
            number = message["id"]
            try:
                self._send(self._run(number, message))
            except HistoadError as err:
                self._send(Failed.of(number, err))
            except Exception as err:  # noqa: BLE001 - the last line of defence: the user gets a sentence, the log the trace
                traceback.print_exc()
                what = f"{message['args']['job']} failed unexpectedly ({type(err).__name__}: {str(err)[:200]})"
                remedy = "see the terminal for details, and please report it"
                self._send(Failed.of(number, HistoadError(what, remedy)))

    def _run(self, number: int, message: dict[str, Any]) -> Event:
        from napari_histoad.worker.jobs import JOBS, close_slides

        try:
            args = Request.model_validate(message).args
        except ValidationError as err:
            raise SettingsError(f"invalid request: {first_error(err)}", "update napari-histoad, and restart napari") from err
        if args.job != "explain":
            close_slides()
        job = JOBS[type(args)](args)
        try:
            while number not in self._cancelled:
                try:
                    progress = next(job)
                except StopIteration as stop:
                    return Finished(id=number, result=stop.value)
                self._send(Progressed(id=number, progress=progress))
            return Cancelled(id=number)
        finally:
            job.close()


def main() -> None:
    """Serve until stdin closes."""
    # Libraries that print must not garble the protocol: stdout becomes stderr, events keep the real one.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(event: Event) -> None:
        try:
            out.write(event.model_dump_json() + "\n")
            out.flush()
        except OSError:  # the window's process has ended
            os._exit(0)

    server = _Server(send)
    threading.Thread(target=server.listen, daemon=True).start()
    import napari_histoad.worker.jobs  # noqa: F401 - warm up: the first click should not wait for torch

    server.serve()
