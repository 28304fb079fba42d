"""The map in the window: the heatmap that fills in, the threshold, the list of flagged regions."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QMainWindow
from shapely.geometry import box as polygon

from napari_histoad.calibration import discovery_rate
from napari_histoad.errors import HistoadError, MapError, SettingsError
from napari_histoad.gui.gallery import TileGallery
from napari_histoad.gui.layers import MAP_KEY, Heatmap, class_layers, error_layer, labels_layer
from napari_histoad.gui.messages import scroll_to
from napari_histoad.gui.rates import rate_words
from napari_histoad.gui.remedies import in_window, note_in_window
from napari_histoad.gui.slide_view import owner_of
from napari_histoad.gui.widgets import BY_DISCOVERIES, BY_FALSE_POSITIVES, SLIDER_STEPS
from napari_histoad.regions import Region
from napari_histoad.results import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.viewer import Viewer
    from numpy.typing import NDArray

    from napari_histoad.gui.controller import Controller, Review
    from napari_histoad.gui.widgets import PanelWidgets
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.results import Verdicts

__all__ = ["MapReview"]

_HIGHEST_RATE = 0.25
_USUAL_DISCOVERIES = 0.1
_REFRESH_MS = 200


class MapReview:
    """Draws what the controller reports of a map, and asks it for regions when the threshold moves.

    Parameters
    ----------
    panel : PanelWidgets
    viewer : napari.Viewer
    controller : Controller
    replace : callable
        Puts a layer in the place of the one of the same name.
    outline : callable
        Adds regions to the outlines of normal tissue, and returns how many were new.

    Attributes
    ----------
    gallery : TileGallery or None
        Tiles of the map, if they are being judged.
    """

    def __init__(
        self,
        panel: PanelWidgets,
        viewer: Viewer,
        controller: Controller,
        replace: Callable[[Any], Any],
        outline: Callable[[list[Region]], int],
    ) -> None:
        self._panel, self._viewer, self._controller = panel, viewer, controller
        self._replace, self._outline = replace, outline
        self._heatmap: Heatmap | None = None
        self._heat_layer: Image | None = None
        self._labels: Labels | None = None
        self._labelled: AnomalyMap | None = None
        self._regions: list[Region] = []
        self._positions: dict[str, tuple[str, int]] = {}
        self._rates = np.geomspace(0.01, _HIGHEST_RATE, SLIDER_STEPS + 1)
        self._refresh_timer = self._timer(self._draw_heatmap)
        self._ask_timer = self._timer(self._ask)
        self._reveal_timer = self._timer(lambda: scroll_to(panel.save_button.native))
        self._revealed = True
        self._p_values: Any = None
        self.gallery: TileGallery | None = None
        self._gallery_dock: Any = None
        panel.rate_kind.changed.connect(self._on_rate_kind)
        panel.rate_slider.valueChanged.connect(lambda _: self._ask_timer.start(_REFRESH_MS // 2))
        panel.region_list.currentRowChanged.connect(self._on_region)
        controller.map_started.connect(self._on_map_started)
        controller.map_updated.connect(self._on_map_updated)
        controller.mapped.connect(self._on_mapped)
        controller.map_restored.connect(self.take_up)
        controller.map_reopened.connect(self._on_reopened)
        controller.reviewed.connect(self._on_reviewed)
        controller.classified.connect(self._on_classified)
        controller.explained.connect(self._on_explained)
        controller.failed.connect(self._on_failed)

    # -- tiles, one by one

    def open_gallery(self) -> None:
        """Show the tiles of the finished map that tell most, to be judged.

        Raises
        ------
        SettingsError
            If there is no finished map.
        """
        source, slide = self._controller.map, self._controller.slide
        if source is None or slide is None or not source.info.complete:
            raise SettingsError("there is no finished map to judge tiles of", "compute one in step 4")
        if self.gallery is None or self.gallery.source is not source:
            if self.gallery is not None:
                self.gallery.stop()
            if self._gallery_dock is not None:
                with suppress(LookupError, RuntimeError):  # closed by hand
                    self._viewer.window.remove_dock_widget(self._gallery_dock)
            self.gallery = TileGallery(self._viewer, source, slide)
            verdicts = self.gallery.verdicts
            self.gallery.train_asked.connect(self._guarded(lambda: self._controller.train_classifier(verdicts)))
            self.gallery.outline_asked.connect(self._guarded(lambda: self._on_outline_asked(verdicts)))
            self.gallery.explain_asked.connect(self._on_explain_asked)
            self._gallery_dock = self._viewer.window.add_dock_widget(self.gallery, name="Judge tiles", area="bottom")
            if isinstance(window := self._gallery_dock.parentWidget(), QMainWindow):
                # Below the layer list there is no room for it: together they are higher than a small screen.
                window.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)
        self._gallery_dock.show()
        self.gallery.setFocus()

    def _guarded(self, action: Callable[[], object]) -> Callable[[], None]:
        """Return a slot that shows an error of the gallery with its remedy there."""

        def slot() -> None:
            assert self.gallery is not None
            self.gallery.message.clear()
            try:
                action()
            except HistoadError as err:
                self.gallery.message.say(in_window(err))

        return slot

    def _on_outline_asked(self, verdicts: Verdicts) -> None:
        normal = [Region(polygon(*verdict.box), verdict.name) for verdict in verdicts if verdict.name == VERDICTS[0]]
        if not normal:
            raise SettingsError("no tile is judged normal yet", "press N on a tile of normal tissue")
        added = self._outline(normal)
        assert self.gallery is not None
        if added:
            words = f"{'1 tile was' if added == 1 else f'{added} tiles were'} added to the outlines of normal tissue"
            self.gallery.say(f"{words}; Train learns from them too.")
        else:
            self.gallery.say("All tiles judged normal are outlined already.")

    def _on_explain_asked(self, y: float, x: float) -> None:
        assert self.gallery is not None
        try:
            self._controller.explain((y, x))
        except HistoadError as err:  # beside the tiles that it speaks of, and not once per tile as a notification
            self.gallery.explanation_failed(in_window(err))

    def _on_failed(self, words: str, step: str) -> None:
        if step == "gallery" and self.gallery is not None and not self.gallery.explanation_failed(words):
            self.gallery.message.say(words)

    def _on_explained(self, panels: list[tuple[str, NDArray[np.uint8]]], words: str) -> None:
        if self.gallery is not None:
            self.gallery.show_explanation(panels, words)

    def _on_classified(self, _: object, words: str) -> None:
        if self.gallery is not None:
            self.gallery.say(f"{words} Compute the anomaly map again, then judge what it is least sure of.")

    def _timer(self, action: Callable[[], object]) -> QTimer:
        timer = QTimer(self._panel)
        timer.setSingleShot(True)
        timer.timeout.connect(action)
        return timer

    # -- the heatmap

    def _on_map_started(self, source: AnomalyMap) -> None:
        for layer in [y for y in self._viewer.layers if self._shows_former(y, source)]:
            self._viewer.layers.remove(layer)
        self.clear("The map is being computed.")
        self._draw(source)

    def _shows_former(self, layer: Any, source: AnomalyMap) -> bool:
        mine = owner_of(layer) == owner_of(self._panel.slide_box.value)
        return mine and MAP_KEY in layer.metadata and not (source.info.complete and layer.metadata[MAP_KEY] == str(source.path))

    def clear(self, words: str = "Compute a map first.") -> None:
        """Show nothing of the former map."""
        self._ask_timer.stop()
        self._heatmap = self._heat_layer = None
        self._regions = []
        self._panel.region_list.clear()
        self._panel.rate_info.setText(words)
        self._panel.notes.clear()
        self._panel.review_group.setEnabled(False)
        if self.gallery is not None:
            self.gallery.stop()
            with suppress(RuntimeError):  # closed by hand
                self._gallery_dock.hide()

    def take_up(self, source: AnomalyMap) -> None:
        """Go on with the review of a finished map where it was left."""
        self.clear()
        there = [y for y in self._viewer.layers if y.metadata.get(MAP_KEY) == str(source.path)]
        if not there or any(self._shows_former(y, source) for y in self._viewer.layers):
            for layer in [y for y in self._viewer.layers if self._shows_former(y, source)]:
                self._viewer.layers.remove(layer)
            self._draw_all(source)
        self._p_values = source.p_values
        self._panel.notes.say(*map(note_in_window, source.notes))
        self._set_rates(source)
        usual = self._panel.rate_kind.value if source.saved_rate is None else BY_FALSE_POSITIVES
        kind, position = self._positions.get(_key(source), (usual, None))
        with self._panel.rate_kind.changed.blocked():
            self._panel.rate_kind.value = kind
        self._panel.rate_slider.setValue(self._position(source) if position is None else position)
        self._panel.review_group.setEnabled(True)
        self._ask()

    def _on_reopened(self, source: AnomalyMap) -> None:
        self._positions.pop(_key(source), None)  # its threshold is the one that was saved
        self.take_up(source)
        self._revealed = False

    def _draw_all(self, source: AnomalyMap) -> None:
        for data, looks, _ in (error_layer(source), *class_layers(source)):
            self._replace(Image(data, **looks))
        self._draw(source)

    def _set_rates(self, source: AnomalyMap) -> None:
        lowest = source.calibration.smallest_rate
        rate = source.default_rate
        self._rates = np.geomspace(min(max(lowest, 1e-4), rate), max(_HIGHEST_RATE, rate), SLIDER_STEPS + 1)
        self._rates[self._position(source)] = rate  # exactly: regions are those that were saved

    def _position(self, source: AnomalyMap) -> int:
        """Return where the slider begins: at the rate that was saved with the map, else at its usual one."""
        rate = source.default_rate
        return min(int(np.searchsorted(self._rates, rate * (1 - 1e-9))), SLIDER_STEPS)

    def _draw(self, source: AnomalyMap) -> None:
        self._heatmap = Heatmap(source)
        data, looks, _ = self._heatmap.layer()
        self._heat_layer = self._replace(Image(data, **looks))

    def _on_map_updated(self, box: tuple[int, int, int, int]) -> None:
        if self._heatmap is None:
            return
        try:
            self._heatmap.update(box)
        except MapError:  # it is gone: the job that writes it says so
            self._heatmap = None
            return
        if not self._refresh_timer.isActive():
            self._refresh_timer.start(_REFRESH_MS)

    def _draw_heatmap(self) -> None:
        if self._heat_layer is not None and self._heat_layer in self._viewer.layers:
            self._heat_layer.refresh()

    def _on_mapped(self, source: AnomalyMap) -> None:
        self.clear()
        self._draw_all(source)  # once more, with the contrast of the whole
        self._p_values = source.p_values
        self._panel.notes.say(*map(note_in_window, source.notes))
        self._panel.review_group.setEnabled(True)
        self._set_rates(source)
        self._panel.rate_slider.setValue(self._position(source))
        self._ask()
        self._revealed = False

    # -- threshold and regions

    def rate(self) -> float:
        """Return the false-positive rate that the slider says, or that the false discovery rate comes to."""
        chosen = self._chosen()
        by_discoveries = self._panel.rate_kind.value == BY_DISCOVERIES and self._p_values is not None
        return discovery_rate(self._p_values, chosen) if by_discoveries else chosen

    def _on_rate_kind(self, kind: str) -> None:
        usual = _USUAL_DISCOVERIES if kind == BY_DISCOVERIES else 0.01
        self._panel.rate_slider.setValue(int(np.searchsorted(self._rates, usual)))
        self._ask_timer.start(_REFRESH_MS // 2)

    def _chosen(self) -> float:
        return float(self._rates[self._panel.rate_slider.value()])

    def _ask(self) -> None:
        if self._controller.map is not None and self._controller.map.info.complete:
            self._controller.request_review(self.rate())

    def _on_reviewed(self, review: Review) -> None:
        source = review.map
        if source is not self._controller.map:
            return
        if self._labels is None or self._labels not in self._viewer.layers or self._labelled is not source:
            data, looks, _ = labels_layer(source, review.labels)
            self._labels, self._labelled = self._replace(Labels(data, **looks)), source
            self._labels.contour = 1
        else:
            self._labels.data = review.labels
        self._positions[_key(source)] = self._panel.rate_kind.value, self._panel.rate_slider.value()
        self._regions = review.regions
        by_discoveries = self._panel.rate_kind.value == BY_DISCOVERIES
        self._panel.rate_info.setText(rate_words(review, self._chosen(), by_discoveries=by_discoveries))
        self._panel.region_list.clear()
        self._panel.region_list.setVisible(bool(review.regions))
        for number, region in enumerate(review.regions, start=1):
            m = region.measurements
            words = f"score {m.get('Mean score', 0):.3g}   lowest p {m.get('Min p-value', 1):.2g}"
            self._panel.region_list.addItem(f"{number}.  {m['Area mm²']:.3f} mm²   {words}")
        if not self._revealed:
            self._revealed = True
            self._reveal_timer.start(_REFRESH_MS)  # once text and list have their height

    def _on_region(self, row: int) -> None:
        slide = self._controller.slide
        if not 0 <= row < len(self._regions) or slide is None or slide.mpp is None:
            return
        y0, x0, y1, x1 = (v * slide.mpp for v in self._regions[row].geometry.bounds)
        self._viewer.scene.camera.center = ((y0 + y1) / 2, (x0 + x1) / 2)
        window = (self._panel.window() or self._panel).size()
        self._viewer.scene.camera.zoom = 0.4 * min(window.width(), window.height()) / max(y1 - y0, x1 - x0, 1.0)


def _key(source: AnomalyMap) -> str:
    """Return what tells a map from others, also when it was set aside."""
    return f"{source.path.parent} {source.info.slide} {source.info.detector_id} {source.info.tiles}"
