"""Long work is a generator: it yields `Progress` and returns its result.

Whoever drives a job may stop between two yields; closing the generator runs its ``finally`` blocks, so that
files and threads are let go. The terminal, the tests and the GUI's worker process drive the same generators.
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
    """One report of a running job.

    Attributes
    ----------
    stage : str
        What is being done, in the user's words: ``"Training"``, ``"Mapping"``.
    done, total : int
        Units finished and due; ``total`` is 0 while it is unknown.
    unit : str
        What is counted: ``"tiles"``, ``"steps"``.
    metrics : dict[str, float]
        Named numbers worth showing, such as the current losses.
    preview : (H, W, 3) uint8 or None
        A picture worth showing: tiles above their reconstructions.
    updated : tuple[int, int, int, int] or None
        The box (y0, x0, y1, x1) of map cells that changed on disk since the last report.
    path : str
        The file or folder that this report speaks of, if any.
    note : str
        A line that should stay readable after this report.
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
        """Finished share in [0, 1], or None while the total is unknown."""
        return min(1.0, self.done / self.total) if self.total else None


Job = Generator[Progress, None, T]


def run(job: Job[T], on_progress: Callable[[Progress], object] | None = None) -> T:
    """Drive a job to its end and return its result.

    Parameters
    ----------
    job : Job
        The generator; it is closed whatever happens.
    on_progress : callable, optional
        Called with every `Progress`; an exception raised there stops the job.
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
    """Rate and time left of the current stage, from the reports of a job.

    The first report of a stage sets the origin, so that start-up and resumed work do not count as speed.
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
    """Return how fast a stage goes and how long it will take, as far as both are known: ``["12/s", "3 min 20 s left"]``.

    The time left of a few steps says nothing: they are not alike.

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
    """Return a rate in the unit in which it is one or more: ``"120/s"``, ``"2.5/s"``, ``"12/min"``, ``"3/h"``."""
    if per_second >= 0.95:
        return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"
    if per_second * 60 >= 0.95:
        return f"{per_second * 60:.0f}/min"
    return f"{max(1, round(per_second * 3600))}/h"


def format_seconds(seconds: float) -> str:
    """Return a duration as a person says it: ``"8 s"``, ``"3 min 20 s"``, ``"1 h 05 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
