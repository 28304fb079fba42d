"""Step 6: the threshold, the flagged regions, and tiles judged one by one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from magicgui.widgets import ComboBox, PushButton
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QListWidget, QSlider
from superqt.utils import qdebounced

from napari_histoad.gui.gallery_dock import GalleryDock
from napari_histoad.gui.map_layers import MapLayers
from napari_histoad.gui.messages import InfoLabel, Message
from napari_histoad.gui.remedies import note_in_window
from napari_histoad.gui.section import Section

if TYPE_CHECKING:
    from napari_histoad.calibration import Discoveries
    from napari_histoad.gui.controller import Review
    from napari_histoad.gui.section import PanelContext
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region

BY_FALSE_POSITIVES, BY_DISCOVERIES = "False-positive rate", "False discovery rate"
_RATE_HELP = (
    "False-positive rate: the share of normal tiles that may be flagged. "
    "False discovery rate: the share of flagged tiles that may be normal."
)
_VALID_FOR = [("Rates for tissue like that of the calibration", "similar"), ("Rates for a new slide", "new-slide")]
_VALID_FOR_HELP = (
    "Tissue like that of the calibration: every calibration tile counts equally. "
    "A new slide: every slide counts equally, and few slides support no small rate."
)
_SLIDER_STEPS = 1000
_HIGHEST_RATE = 0.25
_USUAL_RATE, _USUAL_DISCOVERIES = 0.01, 0.1


class ReviewSection(Section):
    """A slider for the threshold, a list of the flagged regions, and the button that opens the tile gallery."""

    name, title, order = "review", "6 · Review", 60

    def __init__(self, context: PanelContext) -> None:
        super().__init__(context)
        self.notes = Message("warning")
        self.rate_kind = ComboBox(choices=[BY_FALSE_POSITIVES, BY_DISCOVERIES], value=BY_FALSE_POSITIVES, tooltip=_RATE_HELP)
        self.valid_box = ComboBox(choices=_VALID_FOR, value="similar", tooltip=_VALID_FOR_HELP)
        self.rate_slider = QSlider(Qt.Orientation.Horizontal)
        self.rate_slider.setRange(0, _SLIDER_STEPS)
        self.rate_slider.setToolTip("The share of normal tiles that may be flagged by mistake")
        self.rate_info = InfoLabel("Compute a map first.", rich=True)
        self.region_list = QListWidget()
        self.region_list.setMaximumHeight(130)
        self.region_list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.region_list.setToolTip("Click a region to see it in the viewer")
        self.gallery_button = PushButton(
            text="Judge tiles one by one", tooltip="Show the most informative tiles as pictures, and judge each by a key"
        )
        self.recalibrate_button = PushButton(
            text="Recalibrate by the outlines on this slide",
            tooltip="The normal tissue that is outlined on this slide sets the rates of this map; nothing is computed again",
        )
        self.add(self.notes, self.valid_box.native, self.rate_kind.native, self.rate_slider, self.rate_info, self.region_list)
        self.add(self.recalibrate_button.native, self.gallery_button.native, self.message)
        self.layers = MapLayers(context, self)
        self.gallery_dock = GalleryDock(context)
        self._regions: list[Region] = []
        self._discoveries: Discoveries | None = None
        self._rates = np.geomspace(_USUAL_RATE, _HIGHEST_RATE, _SLIDER_STEPS + 1)
        self._positions: dict[str, tuple[str, int]] = {}
        self._just_opened = False
        self.rate_kind.changed.connect(self._on_rate_kind)
        self.valid_box.changed.connect(self.guarded(self._on_valid_for))
        self.rate_slider.valueChanged.connect(lambda _: self._ask_soon())
        self.region_list.currentRowChanged.connect(self._on_region)
        self.recalibrate_button.changed.connect(self.guarded(self._recalibrate))
        self.gallery_button.changed.connect(self.guarded(self.gallery_dock.open))
        maps = self.controller.maps
        maps.started.connect(self._on_started)
        maps.updated.connect(self.layers.update)
        maps.finished.connect(self._on_finished)
        maps.restored.connect(self.show_map)
        maps.reopened.connect(self._on_reopened)
        maps.thresholds.reviewed.connect(self._on_reviewed)

    def clear(self) -> None:
        """Remove everything about the former map."""
        super().clear()
        self._clear_map("Compute a map first.")

    def refresh(self) -> None:
        """Enable the section once the chosen slide has a finished map."""
        source = self.controller.maps.map
        if source is None:
            self.notes.clear()
        self.setEnabled(source is not None and source.info.complete)
        self.enable(self.recalibrate_button)

    # -- the map

    def _clear_map(self, words: str) -> None:
        self._ask_soon.cancel()
        self.layers.forget()
        self._regions = []
        self.region_list.clear()
        self.rate_info.setText(words)
        self.notes.clear()
        self.setEnabled(False)
        self.gallery_dock.hide()

    def _on_started(self, source: AnomalyMap) -> None:
        self._clear_map("The map is being computed.")
        self.layers.start(source)

    def _on_finished(self, source: AnomalyMap) -> None:
        self._clear_map("")
        self.layers.draw(source)
        self._begin(source)
        self.rate_slider.setValue(self._position(source))
        self._ask()
        self._just_opened = True

    def _on_reopened(self, source: AnomalyMap) -> None:
        self._positions.pop(_key(source), None)  # its threshold is the one that was saved
        self.show_map(source)
        self._just_opened = True

    def show_map(self, source: AnomalyMap) -> None:
        """Continue the review of a finished map at its last threshold."""
        self._clear_map("")
        self.layers.show(source)
        self._begin(source)
        usual = self.rate_kind.value if source.saved_rate is None else BY_FALSE_POSITIVES
        kind, position = self._positions.get(_key(source), (usual, None))
        with self.rate_kind.changed.blocked():
            self.rate_kind.value = kind
        self.rate_slider.setValue(self._position(source) if position is None else position)
        self._ask()

    def _begin(self, source: AnomalyMap) -> None:
        """Show the notes of a map, and set the range of the slider by its calibration."""
        with self.valid_box.changed.blocked():
            self.valid_box.value = source.calibration.valid_for
        self.valid_box.native.setVisible(source.calibration.slides is not None)
        self.notes.say(*map(note_in_window, source.notes))
        lowest, rate = source.calibration.supported_rate, source.default_rate
        self._rates = np.geomspace(min(max(lowest, 1e-4), rate), max(_HIGHEST_RATE, rate), _SLIDER_STEPS + 1)
        self._rates[self._position(source)] = rate  # exactly, so that the regions are those that were saved
        self.setEnabled(True)

    def _position(self, source: AnomalyMap) -> int:
        """Return where the slider starts: at the rate that was saved with the map, else at its default rate."""
        return min(int(np.searchsorted(self._rates, source.default_rate * (1 - 1e-9))), _SLIDER_STEPS)

    # -- the threshold

    def rate(self) -> float:
        """Return the false-positive rate of the threshold, computed from the false discovery rate where that is chosen.

        Extrapolated p-values are used where that takes them, or where the saved threshold is an extrapolated one.
        """
        chosen, source = self._chosen(), self.controller.maps.map
        self._discoveries = None
        if source is None:
            return chosen
        if self._by_discoveries():
            self._discoveries = source.use_discovery_rate(chosen)
            return self._discoveries.rate
        calibration = source.calibration
        source.use_tail(used=not calibration.supports(chosen) and not calibration.tail_check.problem)
        return chosen

    def _chosen(self) -> float:
        return float(self._rates[self.rate_slider.value()])

    def _by_discoveries(self) -> bool:
        return bool(self.rate_kind.value == BY_DISCOVERIES)

    def _on_rate_kind(self, _: str) -> None:
        usual = _USUAL_DISCOVERIES if self._by_discoveries() else _USUAL_RATE
        self.rate_slider.setValue(int(np.searchsorted(self._rates, usual)))
        self._ask_soon()

    def _recalibrate(self) -> None:
        self.controller.maps.recalibrate(self.context.outlines.regions())

    def _on_valid_for(self) -> None:
        source = self.controller.maps.map
        if source is not None:
            source.use_rates_for(self.valid_box.value)
            self._begin(source)
            self.rate_slider.setValue(self._position(source))
            self._ask()

    @qdebounced(timeout=100)
    def _ask_soon(self) -> None:
        self._ask()

    def _ask(self) -> None:
        source = self.controller.maps.map
        if source is not None and source.info.complete:
            self.controller.maps.request_review(self.rate())

    def _on_reviewed(self, review: Review) -> None:
        if review.map is self.controller.maps.map:
            self.guarded(partial(self._show_review, review))()  # the folder of the map may have been moved since

    def _show_review(self, review: Review) -> None:
        source = review.map
        self.layers.flag(review)
        self._positions[_key(source)] = self.rate_kind.value, self.rate_slider.value()
        self._regions = review.regions
        self.rate_info.setText(rate_words(review, self._discoveries))
        self.region_list.clear()
        self.region_list.setVisible(bool(review.regions))
        for number, region in enumerate(review.regions, start=1):
            m = region.measurements
            lowest = source.calibration.show_p(float(m.get("Min p-value", 1)))
            words = f"score {m.get('Mean score', 0):.3g} · lowest p {lowest}"
            self.region_list.addItem(f"{number}. {m['Area mm²']:.3f} mm² · {words}")
        if self._just_opened:
            self._just_opened = False
            self.context.map_reviewed.emit()

    def _on_region(self, row: int) -> None:
        slide = self.controller.chosen.slide
        if not 0 <= row < len(self._regions) or slide is None or slide.mpp is None:
            return
        y0, x0, y1, x1 = (v * slide.mpp for v in self._regions[row].geometry.bounds)
        self.viewer.scene.camera.center = ((y0 + y1) / 2, (x0 + x1) / 2)
        window = (self.window() or self).size()
        self.viewer.scene.camera.zoom = 0.4 * min(window.width(), window.height()) / max(y1 - y0, x1 - x0, 1.0)


def _key(source: AnomalyMap) -> str:
    """Return what identifies a map also after it was renamed."""
    return f"{source.path.parent} {source.info.slide} {source.info.detector_id} {source.info.tiles}"


def rate_words(review: Review, discoveries: Discoveries | None) -> str:
    """Return, as rich text, the error rate of the threshold, the flagged regions, and what the rate is based on.

    ``discoveries`` says what a false discovery rate flags, if the slider sets one.
    """
    source, calibration = review.map, review.map.calibration
    most = "About" if calibration.basis is None or calibration.basis.approximate else "At most"
    threshold = f"{calibration.whom(source.info.slide)} (p ≤ {review.rate:.3g})"
    if discoveries is not None:
        words = f"<b>{discoveries.fdr:.2%}</b> of the flagged tiles are expected to be normal {threshold}"
    else:
        words = f"<b>{review.rate:.2%}</b> of normal tiles are flagged {threshold}"
    if source.drift_warning:
        words = f"On slides like those of the calibration, {words}; this slide differs from them."
    else:
        words = f"{most} {words}."
    found = review.findings[0].upper() + review.findings[1:]
    interval = calibration.rate_interval(review.rate)
    power = "" if discoveries is None else discoveries.sentence
    notes = [power, interval.sentence if interval is not None else "", source.region_note]
    lines = [words, *(f"{note}." for note in notes if note), f"{found}.", f"{source.calibration_note}."]
    return "<br>".join(lines)
