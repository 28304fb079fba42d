"""Outlines the regions of a finished map at a threshold, in a thread of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_histoad.errors import HistoadError, MapError
from napari_histoad.gui.remedies import in_window
from napari_histoad.results import describe_findings, measure_regions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histoad.gui.controller.runner import JobRunner
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region


@dataclass(frozen=True)
class Review:
    """A map at one threshold."""

    map: AnomalyMap
    labels: NDArray[np.uint32]  # (H, W), numbered regions over the finest cells
    regions: list[Region]  # measured outlines
    rate: float  # false-positive rate of the threshold, 0 to 1
    findings: str  # number of regions, their area and number of tiles, in one sentence


class Thresholds:
    """Computes a `Review` for each requested threshold."""

    reviewed = Signal(object)
    """Review."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner = runner
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._last: tuple[AnomalyMap, float] | None = None
        self._field: tuple[AnomalyMap, NDArray[np.float32]] | None = None

    def request(self, source: AnomalyMap, rate: float) -> None:
        """Start to outline the regions of a finished map at a false-positive rate; `reviewed` follows.

        Only the last of several requests in a row is answered: a slider moves faster than a large map is outlined.
        """
        self._last = (source, rate)
        self._pool.submit(self._review, source, rate)

    def close(self) -> None:
        """Compute nothing more."""
        self._last = None
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _review(self, source: AnomalyMap, rate: float) -> None:
        if self._last == (source, rate):
            try:
                review = self._reviewed_at(source, rate)
            except HistoadError as err:
                self._runner.call_soon(partial(self._runner.failed.emit, in_window(err), "review"))
            else:
                self._runner.call_soon(partial(self.reviewed.emit, review))

    def _reviewed_at(self, source: AnomalyMap, rate: float) -> Review:
        if not source.path.exists():  # missing chunks would be read as empty ones
            raise MapError(f"the map {source.path} does not exist any more", "put it back, or compute it again")
        if self._field is None or self._field[0] is not source:  # the same for every threshold
            self._field = (source, source.score_field())
        labels = source.flag(rate, field=self._field[1])
        regions = measure_regions(source, labels=labels)
        return Review(source, labels, regions, rate, describe_findings(source, rate, regions))
