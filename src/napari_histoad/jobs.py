"""Long-running work as generators that yield `Progress` and return their result.

A job can be stopped between two yields: closing the generator runs its ``finally`` blocks, which release files and threads. The
terminal, the tests and the background process of the window all run the same generators.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Eta", "Job", "Progress", "format_rate", "format_seconds", "run", "speed_words"]

_ALIKE, _UNLIKE = 10, ("steps", "files")

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """A progress report of a running job.

    Attributes
    ----------
    stage : str
        What is being done, as shown to the user: ``"Training"``, ``"Mapping"``.
    done, total : int
        Finished units and all units; ``total`` is 0 while it is unknown.
    unit : str
        What is counted: ``"tiles"``, ``"steps"``.
    metrics : dict[str, float]
        Numbers to show by name, such as the current losses.
    preview : (H, W, 3) uint8 or None
        A picture to show, such as tiles above their reconstructions.
    updated : tuple[int, int, int, int] or None
        The box (y0, x0, y1, x1) of map cells that changed on disk since the last report.
    path : str
        The file or folder that the report is about; empty if none.
    note : str
        A message that stays visible after the next report.
    """

    stage: str
    done: int = 0
    total: int = 0
    unit: str = "tiles"
    metrics: dict[str, float] = field(default_factory=dict)
    preview: NDArray[np.uint8] | None = None
    updated: tuple[int, int, int, int] | None = None
    path: str = ""
    note: str = ""

    @property
    def fraction(self) -> float | None:
        """Finished fraction in [0, 1], or None while the total is unknown."""
        return min(1.0, self.done / self.total) if self.total else None


Job = Generator[Progress, None, T]


def run(job: Job[T], on_progress: Callable[[Progress], object] | None = None) -> T:
    """Run a job to its end and return its result.

    Parameters
    ----------
    job : Job
        The generator; it is closed in any case.
    on_progress : callable, optional
        Called with every `Progress`; an exception that it raises stops the job.
    """
    try:
        while True:
            try:
                progress = next(job)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if on_progress is not None:
                on_progress(progress)
    finally:
        job.close()


class Eta:
    """Estimates the speed and the remaining time of the current stage from the reports of a job.

    Counting begins with the first report of a stage, so that start-up and resumed work do not count as speed.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._start = 0.0
        self._first = 0

    def update(self, progress: Progress, now: float | None = None) -> tuple[float, float | None]:
        """Return (units per second, seconds left or None while unknown)."""
        now = time.monotonic() if now is None else now
        if progress.stage != self._stage or progress.done < self._first:
            self._stage, self._start, self._first = progress.stage, now, progress.done
        elapsed, advanced = now - self._start, progress.done - self._first
        if elapsed <= 0 or advanced <= 0:
            return 0.0, None
        rate = advanced / elapsed
        return rate, (max(0, progress.total - progress.done) / rate if progress.total else None)


def speed_words(progress: Progress, rate: float, left: float | None) -> list[str]:
    """Return the speed and the remaining time of a stage as texts, as far as known: ``["12/s", "3 min 20 s left"]``.

    The remaining time is left out for stages of a few steps, which take unequal times.

    Parameters
    ----------
    progress : Progress
    rate, left : float, float or None
        What `Eta.update` returned.
    """
    words = []
    if rate > 0:
        words.append(format_rate(rate))
    if left is not None and progress.done < progress.total and (progress.total >= _ALIKE or progress.unit not in _UNLIKE):
        words.append(f"{format_seconds(left)} left")
    return words


def format_rate(per_second: float) -> str:
    """Return a rate per second, minute or hour, whichever is at least 1: ``"120/s"``, ``"2.5/s"``, ``"12/min"``, ``"3/h"``."""
    if per_second >= 0.95:
        return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"
    if per_second * 60 >= 0.95:
        return f"{per_second * 60:.0f}/min"
    return f"{max(1, round(per_second * 3600))}/h"


def format_seconds(seconds: float) -> str:
    """Return a duration as text: ``"8 s"``, ``"3 min 20 s"``, ``"1 h 05 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
