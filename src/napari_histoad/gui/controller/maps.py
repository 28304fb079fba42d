"""The anomaly map of the chosen slide: computed, shown while it fills in, reopened, reviewed and saved."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from psygnal import Signal

from napari_histoad.errors import MapError, RegionError
from napari_histoad.gui.controller.runner import Handlers
from napari_histoad.gui.controller.thresholds import Thresholds
from napari_histoad.gui.output_paths import free_names
from napari_histoad.maps import AnomalyMap
from napari_histoad.regions import write_geojson
from napari_histoad.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_histoad.gui.controller.runner import JobRunner
    from napari_histoad.gui.controller.slides import ChosenSlide
    from napari_histoad.gui.controller.training import Training
    from napari_histoad.jobs import Progress
    from napari_histoad.regions import Region
    from napari_histoad.results import Export


class Maps:
    """The map of the chosen slide, finished or being computed, and the last finished map of each slide of this session."""

    started = Signal(object)
    """AnomalyMap, still empty or half full."""
    updated = Signal(tuple)
    """Box (y0, x0, y1, x1) of finest cells that changed."""
    finished = Signal(object)
    """AnomalyMap, just computed."""
    restored = Signal(object)
    """AnomalyMap of this session: the earlier one after a run that failed, or that of a slide chosen again."""
    reopened = Signal(object)
    """AnomalyMap, computed before and opened now."""
    saved = Signal(list)
    """Paths of the written files."""

    def __init__(self, runner: JobRunner, chosen: ChosenSlide, training: Training) -> None:
        self._chosen, self._training = chosen, training
        self.map: AnomalyMap | None = None
        self.thresholds = Thresholds(runner)
        self._last: dict[Path, AnomalyMap] = {}
        self._rate = 0.0
        self._computing = self._growing = False
        chosen.changed.connect(self._forget)

    def close(self) -> None:
        """End the thread of the thresholds."""
        self.thresholds.close()

    def _forget(self) -> None:
        self.map, self._growing = None, False

    def compute(self, artefacts: str = "mark") -> None:
        """Start to map the chosen slide with the chosen detector; `started`, `updated` and `finished` follow.

        ``artefacts`` is one of `tiles.ARTEFACTS`.
        An unfinished map of the same detector is continued; a map of another detector is renamed and kept.
        """
        folder, model = self._chosen.folder(), self._training.model
        self._growing = False
        handlers = Handlers("map", self._on_computed, self._on_progress, self._on_failure)
        self._chosen.submit(protocol.ComputeMap, {"out": folder, "model": model, "artefacts": artefacts}, handlers)
        self._computing = True

    def _on_progress(self, progress: Progress) -> None:
        if progress.stage != "Mapping" or not self._chosen.is_of_job:
            return
        if not self._growing:
            with suppress(MapError):  # it was deleted meanwhile: the job that writes it reports that
                self.map = AnomalyMap.open(progress.path)
                self._growing = True
                self.started.emit(self.map)
        if self._growing and progress.updated is not None:
            self.updated.emit(progress.updated)

    def _on_failure(self) -> None:
        self._computing = False
        self.restore()

    def _on_computed(self, result: protocol.MapComputed) -> None:
        self._computing = False
        if self._chosen.is_of_job:
            self.show(AnomalyMap.open(result.path))
        else:
            self._chosen.leave_behind()

    def show(self, finished: AnomalyMap) -> None:
        """Review a map that was just computed; `finished` follows."""
        self._take(finished)
        self.finished.emit(finished)

    def reopen(self, finished: AnomalyMap) -> None:
        """Review a map of the chosen slide that was computed before; `reopened` follows."""
        self._take(finished)
        self.reopened.emit(finished)

    def restore(self) -> None:
        """Return to the last finished map of the chosen slide, if there is one and none is being computed."""
        slide = self._chosen.slide
        earlier = None if slide is None else self._last.get(slide.path)
        computing = self._computing and self._chosen.is_of_job
        if earlier is None or self.map is earlier or computing:
            return
        self._growing = False
        found = _find_moved(earlier)
        if found is not None:
            self._take(found)
            self.restored.emit(found)

    def _take(self, finished: AnomalyMap) -> None:
        self._growing, self.map = False, finished
        if self._chosen.slide is not None:
            self._last[self._chosen.slide.path] = finished

    def request_review(self, rate: float) -> None:
        """Start to outline the regions of the map at a false-positive rate; `thresholds.reviewed` follows."""
        assert self.map is not None
        self._rate = rate
        self.thresholds.request(self.map, rate)

    def recalibrate(self, regions: Sequence[Region]) -> None:
        """Start to set the rates of the map by outlines of normal tissue on its slide; `reopened` follows."""
        assert self.map is not None
        path, outlines = self.map.path, self._chosen.folder() / f"{self._chosen.require().name}.recalibrated.geojson"
        if not regions:
            raise RegionError("no normal tissue is outlined on this slide", "outline some in step 3")
        write_geojson(regions, outlines)

        def show(_: object) -> None:
            if self._chosen.is_of_job:
                self.reopen(AnomalyMap.open(path))

        self._chosen.submit(protocol.RecalibrateMap, {"map": path, "regions": outlines}, Handlers("review", show))

    def save(self, exports: Sequence[Export], *, report: bool) -> None:
        """Start to write exports and a report at the last threshold, and the threshold into the map; `saved` follows."""
        assert self.map is not None
        folder, name = self._chosen.folder(), self._chosen.require().name
        endings = [*(export.ending for export in exports), *(["report.html"] if report else [])]
        side_endings = [ending for export in exports for ending in export.side_endings]
        files = free_names([folder / f"{name}.{ending}" for ending in (*endings, *side_endings)])
        written = dict(zip((export.name for export in exports), files, strict=False))
        report_file = files[len(exports)] if report else None
        calibration = self.map.calibration
        threshold = {"rate": self._rate, "valid_for": calibration.valid_for, "extrapolated": calibration.extrapolated}
        args = {"map": self.map.path, **threshold, "exports": written, "report": report_file}
        self._chosen.submit(protocol.SaveResults, args, Handlers("save", lambda _: self.saved.emit(files[: len(endings)])))


def _find_moved(source: AnomalyMap) -> AnomalyMap | None:
    """Return a map, also if it was renamed because another detector's took its place; None if it does not exist any more."""
    stem = source.path.name.removesuffix(".ome.zarr")
    renamed = (p for p in source.path.parent.glob("*.ome.zarr") if p.name.startswith(f"{stem}.earlier-"))
    for path in (source.path, *renamed):
        with suppress(MapError):
            found = AnomalyMap.open(path)
            if found.info == source.info:
                return source if path == source.path else found
    return None
