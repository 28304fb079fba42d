"""Maps that are dropped on the window: their slide is opened or asked for, and they are reviewed on it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from psygnal import Signal
from superqt.utils import qdebounced

from napari_histoad.errors import HistoadError
from napari_histoad.gui.layer_data import MAP_KEY
from napari_histoad.gui.remedies import in_window
from napari_histoad.gui.slide_of_map import is_of_slide, open_slide_of, slide_layer_of
from napari_histoad.gui.slide_view import has_role
from napari_histoad.maps import AnomalyMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Layer

    from napari_histoad.gui.controller import Controller
    from napari_histoad.gui.section import PanelContext

_INSIDE = ("zarr.json", ".zgroup", ".zattrs")


class DroppedMaps:
    """Chooses the slide of a map that was dropped, and starts the review of the map.

    ``set_mpp`` sets the µm per pixel of the chosen slide.
    """

    wanted_changed = Signal(bool)
    """Whether the user is asked for the slide of a map."""

    def __init__(self, context: PanelContext, set_mpp: Callable[[float], None]) -> None:
        self._context, self._viewer, self._controller = context, context.viewer, context.controller
        self._set_mpp = set_mpp
        self._dropped: list[str] = []
        self.wanted: AnomalyMap | None = None
        self._postponed = False
        self._take_up_soon = qdebounced(self._take_up_dropped, timeout=0, parent=context.parent)
        self._controller.runner.busy_changed.connect(self._on_busy)
        for layer in self._viewer.layers:
            self.added(layer)

    def added(self, layer: Layer) -> None:
        """Take up the map of a layer that the panel has not added itself, once all layers of the map are there."""
        path = layer.metadata.get(MAP_KEY)
        if path is None or has_role(layer):
            return
        if path not in self._dropped:
            self._dropped.append(path)
        self._take_up_soon()

    def _layers(self, path: str) -> list[Layer]:
        return [y for y in self._viewer.layers if y.metadata.get(MAP_KEY) == path]

    def _take_up_dropped(self) -> None:
        if self._dropped and self._controller.runner.busy:
            self._postponed = True
            name = Path(self._dropped[0]).name
            self._context.failed.emit(f"the map {name} can be reviewed after the end of the run below", "review")
            return
        dropped, self._dropped = self._dropped, []
        for path in dropped:
            if self._layers(path):  # else they were removed meanwhile
                self._take_up(path)

    def _on_busy(self, busy: bool) -> None:  # noqa: FBT001 - a slot takes what its signal sends
        if not busy and self._postponed:
            self._postponed = False
            self._context.resolved.emit("review")
            self._take_up_soon()

    def _take_up(self, path: str) -> None:
        source, layer = None, None
        try:
            source = AnomalyMap.open(path)
            layer = slide_layer_of(source, self._viewer)
        except HistoadError as err:
            self._want(source, in_window(err))
            return
        if layer is None:
            where = source.info.slide_file or "its former folder"
            words = f"the slide {source.info.slide} of the map {source.path.name} was not found in {where}"
            self._want(source, f"{words}; click Find the slide… to review the map")
        else:
            self.review(source, layer)

    def _want(self, source: AnomalyMap | None, words: str) -> None:
        self._set_wanted(source)
        self._context.failed.emit(words, "slide")

    def _set_wanted(self, source: AnomalyMap | None) -> None:
        self.wanted = source
        self.wanted_changed.emit(source is not None)

    def review(self, source: AnomalyMap, layer: Layer) -> None:
        """Review a map on the layer of its slide, or say how to continue it if it is not finished."""
        self._set_wanted(None)
        self._context.slide_asked.emit(layer)
        slide, mpp = self._controller.chosen.slide, source.info.slide_mpp
        if slide is not None and (slide.mpp is None or not math.isclose(slide.mpp, mpp, rel_tol=1e-3)):
            self._set_mpp(mpp)  # else the map would not cover its slide
        for mapped in self._layers(str(source.path)):
            self._context.view.adopt(mapped)
        if source.info.complete:
            self._controller.maps.reopen(source)
        else:
            self._context.failed.emit(unfinished_words(source, self._controller), "map")
        self._context.changed.emit()

    def find(self, file: Path) -> None:
        """Review the wanted map on the slide in a file; if that is a different slide, an error says so."""
        source = self.wanted
        if source is None:
            return
        try:
            layer = open_slide_of(source, file.parent if file.name in _INSIDE else file, self._viewer)
        except HistoadError as err:
            self._want(source, in_window(err))
        else:
            if self.wanted is source:  # opening it may have started the review already
                self.review(source, layer)

    def slide_shown(self) -> None:
        """Review the wanted map, if its slide was opened."""
        slide, source = self._controller.chosen.slide, self.wanted
        if source is not None and slide is not None and self._layers(str(source.path)) and is_of_slide(source, slide):
            self._dropped.append(str(source.path))
            self._set_wanted(None)
            self._take_up_soon()


def unfinished_words(source: AnomalyMap, controller: Controller) -> str:
    """Return how much of a map is finished, and how to continue it."""
    out, slide = controller.chosen.out, controller.chosen.slide
    share = f"{len(source.finished_blocks()) / max(source.block_count, 1):.0%}"
    words = f"the map {source.path.name} is not finished ({share} done)"
    if slide is None or out is None or source.path.resolve() != map_path(slide.name, out).resolve():
        where = "the folder of the slide's results" if out is None or slide is None else str(map_path(slide.name, out))
        return f"{words}; to continue it, move it to {where} and click Compute anomaly map"
    return f"{words}; Compute anomaly map continues it, if its detector ({source.info.detector}) is chosen"


def map_path(name: str, out: Path) -> Path:
    """Return the path of the map of a slide in the folder of its results."""
    return out / f"{name}.ome.zarr"
