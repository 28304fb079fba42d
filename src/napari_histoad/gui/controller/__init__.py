"""What the panel does, without a window: choosing a slide, and jobs in the background process. No Qt, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoad.gui.controller.maps import Maps
from napari_histoad.gui.controller.runner import JobRunner
from napari_histoad.gui.controller.slides import ChosenSlide
from napari_histoad.gui.controller.thresholds import Review
from napari_histoad.gui.controller.training import Training
from napari_histoad.gui.controller.verdicts import VerdictJobs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Controller", "Review"]


class Controller:
    """One session: the chosen slide, the chosen detector, the map, and the jobs on them.

    Signals of all parts are emitted on the thread of ``call_soon``, which takes a function and calls it on the GUI's thread.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self.runner = JobRunner(call_soon)
        self.chosen = ChosenSlide(self.runner)
        self.training = Training(self.runner, self.chosen)
        self.maps = Maps(self.runner, self.chosen, self.training)
        self.verdicts = VerdictJobs(self.chosen, self.training)

    def close(self) -> None:
        """End the background process and all threads; no signal is emitted any more."""
        self.maps.close()
        self.runner.close()
