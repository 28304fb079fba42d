"""Progress bars of long-running commands, on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from napari_histoad.cli._console import say
from napari_histoad.jobs import Eta, Progress, run, speed_words

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from napari_histoad.jobs import Job

T = TypeVar("T")


def follow(job: Job[T], *, quiet: bool = False) -> T:
    """Run a job to its end and return its result; show progress, speed and time left on stderr, unless ``quiet``."""
    if quiet:
        return run(job)
    stages = _Stages()
    try:
        return run(job, stages.show)
    finally:
        stages.finish()


class _Stages:
    """A bar for each stage of a job in a terminal; elsewhere, such as in a log file, one line when the stage has finished."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._eta, self._stage, self._line = Eta(), "", ""

    def show(self, progress: Progress) -> None:
        rate, left = self._eta.update(progress)
        if progress.stage != self._stage:
            self.finish()
            self._stage, self._bar = progress.stage, _new_bar()
            self._task = self._bar.add_task(progress.stage, words="")
            self._bar.start()
        if progress.note:
            say(progress.note)
        count = f"{progress.done:,}/{progress.total:,}" if progress.total else f"{progress.done:,}"
        words = "  ".join([f"{count} {progress.unit}", *speed_words(progress, rate, left)])
        if "held-out loss" in progress.metrics:
            words += f"  held-out loss {progress.metrics['held-out loss']:.4f}"
        self._line = f"{progress.stage:<16}  {words}"
        assert self._bar is not None  # made when the stage began
        self._bar.update(self._task, completed=progress.done, total=progress.total or None, words=words)

    def finish(self) -> None:
        if self._bar is None:
            return
        self._bar.stop()
        if self._bar.disable:
            say(self._line)
        self._bar = None


def _new_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description:<16}"), BarColumn(None), TextColumn("{task.fields[words]}")
    return Progress(*columns, console=console, expand=True, disable=not console.is_terminal)
