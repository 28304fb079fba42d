"""Runs one job at a time in the background process and reports its progress, its result or its error."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_histoad.errors import HistoadError
from napari_histoad.gui.remedies import in_window
from napari_histoad.jobs import Eta, Job, Progress
from napari_histoad.worker.client import WorkerClient
from napari_histoad.worker.protocol import Arguments, Cancelled, Event, Failed, Finished, Progressed

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Handlers:
    """What happens with the reports of a job, on the GUI's thread."""

    section: str  # name of the section of the panel that shows the error of the job
    on_result: Callable[[Any], object]  # takes the result
    on_progress: Callable[[Progress], object] | None = None
    on_failure: Callable[[], object] | None = None  # called after an error or a cancel


class JobRunner:
    """Starts jobs and calls back through ``call_soon``, which calls a function on the GUI's thread."""

    progressed = Signal(Progress, float, object)
    """Progress, units per second, seconds left or None."""
    busy_changed = Signal(bool)
    """A job was started, or has ended."""
    cancelled = Signal()
    failed = Signal(str, str)
    """What failed and what to do about it, in one line; name of the section of the panel that shows it."""

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon_of_window, self._closed = call_soon, False
        self.client = WorkerClient(lambda event: self.call_soon(partial(self._on_event, event)))
        self._running: Handlers | None = None  # until its end is reported here; the client knows of the end earlier
        self._number: int | None = None  # of the job in the background process
        self._stop_thread: threading.Event | None = None
        self._eta = Eta()
        self._queries: list[tuple[Arguments, Callable[[Any], object]]] = []
        self._query_number: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is running, or its end has not been reported yet."""
        return self._running is not None

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function on the GUI's thread, unless the panel is closed by then."""
        self._call_soon_of_window(lambda: None if self._closed else function())  # type: ignore[arg-type]

    def submit(self, args: Arguments, handlers: Handlers) -> None:
        """Start a job in the background process, unless another one is running."""
        self._begin(handlers)
        self._number = self.client.submit(args)
        self.busy_changed.emit(True)  # noqa: FBT003 - a signal takes positions

    def run_here(self, job: Job[Any], handlers: Handlers) -> None:
        """Run a generator job in a thread of this process: it needs arrays that the background process does not have."""
        self._begin(handlers)
        self._stop_thread = threading.Event()
        threading.Thread(target=self._run, args=(job, self._stop_thread), daemon=True).start()
        self.busy_changed.emit(True)  # noqa: FBT003 - a signal takes positions

    def query(self, args: Arguments, on_result: Callable[[Any], object]) -> None:
        """Ask the background process for something without being busy: a job that the user starts comes first.

        If the job, which must be short, fails, nothing is called.
        """
        self._queries.append((args, on_result))
        self._send_query()

    def _send_query(self) -> None:
        if self._queries and not self.busy and self._query_number is None:
            self._query_number = self.client.submit(self._queries[0][0])

    def require_idle(self) -> None:
        """Raise an error if a job is running."""
        if self.busy:
            raise HistoadError("another job is still running", "wait for its end, or cancel it")

    def _begin(self, handlers: Handlers) -> None:
        self.require_idle()
        self._running, self._eta, self._stop_thread, self._number = handlers, Eta(), None, None
        self._query_number = None  # its answer is lost; it is asked again after the job

    def _run(self, job: Job[Any], stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                self.call_soon(partial(self._on_progress, next(job)))
            outcome: Any = Cancelled(id=0)
        except StopIteration as end:
            outcome = Cancelled(id=0) if stop.is_set() else end.value
        except HistoadError as err:
            outcome = Failed.of(0, err)
        finally:
            job.close()
        self.call_soon(partial(self._on_end, outcome))

    def cancel(self) -> None:
        """Stop the running job; finished parts stay on disk."""
        if self._stop_thread is not None:
            self._stop_thread.set()
        else:
            self.client.cancel()

    def close(self) -> None:
        """End the background process; nothing is called back any more."""
        self._closed = True
        if self._stop_thread is not None:
            self._stop_thread.set()
        self.client.close()

    def _on_event(self, event: Event) -> None:
        if self._running is None or event.id != self._number:
            self._on_answer(event)
        elif isinstance(event, Progressed):
            self._on_progress(event.progress)
        else:
            self._on_end(event.result if isinstance(event, Finished) else event)

    def _on_end(self, outcome: Any) -> None:
        """Report the end of the running job: its result, or the event of another end."""
        running = self._running
        assert running is not None
        self._running = self._stop_thread = None
        if isinstance(outcome, Cancelled | Failed) and running.on_failure is not None:
            running.on_failure()
        self.busy_changed.emit(False)  # noqa: FBT003 - a signal takes positions
        if isinstance(outcome, Cancelled):
            self.cancelled.emit()
        elif isinstance(outcome, Failed):
            self.failed.emit(in_window(outcome.error), running.section)
        else:
            self._on_result(running, outcome)
        self._send_query()

    def _on_answer(self, event: Event) -> None:
        if isinstance(event, Progressed) or self._query_number is None or event.id != self._query_number:
            return
        self._query_number = None
        _, on_result = self._queries.pop(0)
        if isinstance(event, Finished):
            on_result(event.result)
        self._send_query()

    def _on_result(self, running: Handlers, result: Any) -> None:
        try:
            running.on_result(result)
        except HistoadError as err:  # a file of the result was deleted meanwhile
            if running.on_failure is not None:
                running.on_failure()
            self.failed.emit(in_window(err), running.section)

    def _on_progress(self, progress: Progress) -> None:
        if self._running is None:
            return
        if self._running.on_progress is not None:
            self._running.on_progress(progress)
        rate, left = self._eta.update(progress)
        self.progressed.emit(progress, rate, left)
