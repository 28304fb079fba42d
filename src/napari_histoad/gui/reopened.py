"""Finished maps in the window again: those that are dropped on it, and the one that lies among a slide's results."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_histoad.errors import HistoadError, MapError
from napari_histoad.gui.layers import MAP_KEY
from napari_histoad.gui.map_slide import is_of_slide, open_slide_of, slide_layer_of
from napari_histoad.gui.remedies import in_window
from napari_histoad.gui.slide_view import has_role
from napari_histoad.maps import AnomalyMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_histoad.gui.controller import Controller
    from napari_histoad.gui.slide_view import SlideView
    from napari_histoad.gui.widgets import PanelWidgets

__all__ = ["ReopenedMaps"]

_INSIDE = ("zarr.json", ".zgroup", ".zattrs")


class ReopenedMaps:
    """Chooses the slide of a map that was dropped, and gives the map to the review.

    Parameters
    ----------
    panel : PanelWidgets
    viewer : napari.Viewer
    controller : Controller
    view : SlideView
    set_mpp : callable
        Sets the resolution of the chosen slide.
    failed : callable
        Shows words in a step of the panel.
    """

    def __init__(
        self,
        panel: PanelWidgets,
        viewer: Viewer,
        controller: Controller,
        view: SlideView,
        set_mpp: Callable[[float], None],
        failed: Callable[[str, str], None],
    ) -> None:
        self._panel, self._viewer, self._controller, self._view = panel, viewer, controller, view
        self._set_mpp, self._failed = set_mpp, failed
        self._dropped: list[str] = []
        self._wanted: AnomalyMap | None = None
        """The map whose slide the user is asked for."""
        self._there: AnomalyMap | None = None
        """The finished map among the results of the chosen slide."""
        self._timer = QTimer(panel)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._take_up_dropped)
        panel.find_button.changed.connect(self._on_find)
        panel.reopen_button.changed.connect(self._on_reopen)
        controller.busy_changed.connect(self._on_busy)
        for layer in viewer.layers:
            self.added(layer)

    # -- maps that are dropped

    def added(self, layer: Layer) -> None:
        """Take up the map of a layer that the review has not drawn itself, once all its layers are there."""
        path = layer.metadata.get(MAP_KEY)
        if path is None or has_role(layer):
            return
        if path not in self._dropped:
            self._dropped.append(path)
        self._timer.start(0)

    def _layers(self, path: str) -> list[Layer]:
        return [y for y in self._viewer.layers if y.metadata.get(MAP_KEY) == path]

    def _take_up_dropped(self) -> None:
        if self._controller.busy:
            name = Path(self._dropped[0]).name
            self._panel.messages["review"].say(f"the map {name} can be reviewed once the run below has ended")
            return
        dropped, self._dropped = self._dropped, []
        for path in dropped:
            if self._layers(path):  # else they were removed meanwhile
                self._take_up(path)

    def _on_busy(self, busy: bool) -> None:  # noqa: FBT001 - a slot takes what its signal sends
        if not busy and self._dropped:
            self._panel.messages["review"].clear()
            self._timer.start(0)

    def _take_up(self, path: str) -> None:
        source, layer = None, None
        try:
            source = AnomalyMap.open(path)
            layer = slide_layer_of(source, self._viewer)
        except HistoadError as err:
            self._want(source, in_window(err))
            return
        if layer is None:
            where = source.info.slide_file or "where it was"
            words = f"the slide {source.info.slide}, which the map {source.path.name} is of, is not found ({where})"
            self._want(source, f"{words}; click Find the slide… to review the map")
        else:
            self._review(source, layer)

    def _want(self, source: AnomalyMap | None, words: str) -> None:
        self._wanted = source
        self._panel.find_button.native.setVisible(source is not None)
        self._failed(words, "slide")

    def _review(self, source: AnomalyMap, layer: Layer) -> None:
        self._wanted = None
        self._panel.find_button.native.setVisible(False)
        self._panel.slide_box.value = layer
        slide, mpp = self._controller.slide, source.info.slide_mpp
        if slide is not None and (slide.mpp is None or not math.isclose(slide.mpp, mpp, rel_tol=1e-3)):
            self._set_mpp(mpp)  # else the map would not lie on its slide
        for mapped in self._layers(str(source.path)):
            self._view.adopt(mapped)
        if source.info.complete:
            self._controller.reopen(source)
        else:
            self._panel.messages["map"].say(self._unfinished(source))
        self.offer()

    def _unfinished(self, source: AnomalyMap) -> str:
        out, slide = self._controller.out, self._controller.slide
        share = f"{len(source.finished_blocks()) / max(source.block_count, 1):.0%}"
        words = f"the map {source.path.name} is not finished ({share} done)"
        if slide is None or out is None or source.path.resolve() != _map_of(slide.name, out).resolve():
            where = "the folder of the slide's results" if out is None or slide is None else str(_map_of(slide.name, out))
            return f"{words}; to go on with it, move it to {where} and click Compute anomaly map"
        return f"{words}; Compute anomaly map goes on with it, if its detector ({source.info.detector}) is chosen"

    # -- a slide that is not where it was

    def _on_find(self, *_: object) -> None:
        if self._wanted is None:
            return
        words = f"Where is {self._wanted.info.slide}? (in a folder that is a slide, choose any file)"
        chosen, _filter = QFileDialog.getOpenFileName(self._panel, words, str(self._wanted.path.parent))
        if chosen:
            self.find(Path(chosen))

    def find(self, place: Path) -> None:
        """Review the map whose slide was asked for, if this is that slide; else say why it is not."""
        source = self._wanted
        if source is None:
            return
        self._panel.messages["slide"].clear()
        try:
            layer = open_slide_of(source, place.parent if place.name in _INSIDE else place, self._viewer)
        except HistoadError as err:
            self._want(source, in_window(err))
        else:
            if self._wanted is source:  # opening it may have done so already
                self._review(source, layer)

    def slide_chosen(self) -> None:
        """Review the map whose slide was asked for, if that has been opened; else offer the map of the slide's results."""
        slide, source = self._controller.slide, self._wanted
        if source is not None and slide is not None and self._layers(str(source.path)) and is_of_slide(source, slide):
            self._wanted = None
            self._dropped.append(str(source.path))
            self._timer.start(0)
        self._panel.find_button.native.setVisible(self._wanted is not None)

    # -- the map among the results

    def offer(self) -> None:
        """Say whether a map of the chosen slide lies among its results, and offer a finished one."""
        found = None if self._controller.busy or self._controller.map is not None else self._among_results()
        self._there = found if found is not None and found.info.complete else None
        self._panel.reopen_button.native.setVisible(self._there is not None)
        self._panel.there_info.setText("" if found is None else self._words(found))

    def _among_results(self) -> AnomalyMap | None:
        slide, out = self._controller.slide, self._controller.out
        if slide is None or out is None or slide.mpp is None:
            return None
        path = _map_of(slide.name, out)
        if not path.is_dir():
            return None
        try:
            found = AnomalyMap.open(path)
        except MapError:  # whoever computes the map is told
            return None
        same = (found.info.slide, tuple(found.info.slide_shape)) == (slide.file_name, tuple(slide.shape))
        return found if same else None

    def _words(self, found: AnomalyMap) -> str:
        if found.info.complete:
            return f"This slide has a finished map, made with {found.info.detector}."
        words = self._unfinished(found)
        return f"{words[0].upper()}{words[1:]}."

    def _on_reopen(self, *_: object) -> None:
        self._panel.messages["map"].clear()
        source, slide = self._there, self._controller.slide
        if source is None or slide is None or self._controller.busy:
            return
        try:
            source = AnomalyMap.open(source.path)  # it may be gone
            source.check_slide(slide)
        except HistoadError as err:
            self._failed(in_window(err), "map")
            self._panel.reopen_button.native.setVisible(False)
        else:
            self._review(source, self._panel.slide_box.value)


def _map_of(name: str, out: Path) -> Path:
    return out / f"{name}.ome.zarr"
