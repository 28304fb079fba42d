"""Step 1: which slide is worked on, and the size of its pixels."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, PushButton
from napari.layers import Image
from qtpy.QtWidgets import QFileDialog

from napari_histoad.errors import HistoadError
from napari_histoad.gui.dropped_maps import DroppedMaps
from napari_histoad.gui.messages import InfoLabel
from napari_histoad.gui.pixel_size import PixelSize
from napari_histoad.gui.remedies import in_window, note_in_window
from napari_histoad.gui.section import NO_SLIDE, Section
from napari_histoad.gui.slide_layers import SLIDE_KEY, associated_layers, can_be_slide, pixel_size, slide_of_layer
from napari_histoad.gui.slide_view import owner_of

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_histoad.gui.section import PanelContext
    from napari_histoad.slide import Slide


class SlideSection(Section):
    """The list of open slides, a description of the chosen one, and its pixel size where the file does not state it."""

    name, title, order = "slide", "1 · Slide", 10

    def __init__(self, context: PanelContext) -> None:
        super().__init__(context)
        self.slide_box = ComboBox(choices=self.slide_choices, nullable=True, tooltip="The slide to work on")
        self.info = InfoLabel(escape(NO_SLIDE), rich=True)
        self.pictures_button = PushButton(
            text="Show label and macro", tooltip="Other pictures in the file; the label may show the patient's name"
        )
        self.mpp_row = PixelSize()
        self.find_button = PushButton(
            text="Find the slide…", tooltip="Choose the file of the map's slide; a different slide is refused"
        )
        self.find_button.native.hide()
        self.settings = [self.mpp_row]
        self.add(self.slide_box.native, self.info, self.pictures_button.native, self.mpp_row, self.message)
        self.add(self.find_button.native)
        self.dropped = DroppedMaps(context, self.set_mpp)
        self.dropped.wanted_changed.connect(self._on_wanted)
        self.slide_box.changed.connect(self._on_slide)
        self.mpp_row.button.changed.connect(self.guarded(self._on_mpp))
        self.pictures_button.changed.connect(self.guarded(self._show_pictures))
        self.find_button.changed.connect(self._ask_slide)
        self.controller.chosen.copied.connect(self._on_copied)
        context.slide_asked.connect(self._choose)
        context.map_asked.connect(lambda source: self.dropped.review(source, self.slide_box.value))
        context.layer_renamed.connect(self._on_renamed)
        context.layer_added.connect(self._on_added)
        context.layer_removed.connect(self._update_choices)
        self._update_choices()

    # -- which slide

    def slide_choices(self, _: object = None) -> list[tuple[str, Layer]]:
        """Return (name, layer) of the slides that are open."""
        return [(layer.name, layer) for layer in self.viewer.layers if can_be_slide(layer)]

    def _on_added(self, layer: Layer) -> None:
        self.dropped.added(layer)
        self._update_choices()
        if can_be_slide(layer) and owner_of(layer) != self.context.view.owner:
            self.slide_box.value = layer  # it covers the others

    def _update_choices(self) -> None:
        """List the slides that are open now."""
        before = self.slide_box.value
        self.slide_box.reset_choices()
        slides = [layer for _, layer in self.slide_choices()]
        if self.slide_box.value is None and slides:
            copies = [layer for layer in slides if owner_of(layer) == self.context.view.owner]
            self.slide_box.value = (copies or slides)[-1]
        if self.slide_box.value is not before or before is None:
            self._on_slide()

    def _choose(self, layer: Layer) -> None:
        self.slide_box.value = layer

    def _on_renamed(self) -> None:
        chosen = self.slide_box.value
        with self.slide_box.changed.blocked():  # it is the same slide
            self.slide_box.reset_choices()
            self.slide_box.value = chosen

    def _on_slide(self, _: object = None) -> None:
        layer, slide, problem = self.slide_box.value, None, ""
        try:
            slide = None if layer is None else slide_of_layer(layer)
        except HistoadError as err:
            problem = in_window(err)
        context, chosen = self.context, self.controller.chosen
        former = chosen.slide
        chosen.choose(slide)
        self.mpp_row.show_value(None if chosen.slide is None else chosen.slide.mpp)
        if former is None or slide is None or former.path != slide.path or owner_of(layer) != context.view.owner:
            context.slide_left.emit()
        if problem:
            self.fail(problem)
        self._place(layer, chosen.slide)
        context.view.show(layer)
        self.controller.maps.restore()
        context.slide_shown.emit()
        context.changed.emit()

    def slide_shown(self) -> None:
        """Review a map that was dropped, if this is its slide."""
        self.dropped.slide_shown()

    def _place(self, layer: Layer | None, slide: Slide | None) -> None:
        """Show a layer in µm, as heatmap and outlines are: another reader may have shown it in pixels."""
        if layer is None or slide is None or slide.mpp is None:
            return
        looks = pixel_size(slide.mpp)
        if not np.allclose(layer.scale[-2:], looks["scale"]) or [str(u) for u in layer.units[-2:]] != ["micrometer"] * 2:
            self.context.view.rescale(layer, looks["scale"], looks["units"])
            self.viewer.reset_view()

    def _on_copied(self, slide: Slide) -> None:
        if self.slide_box.value is not None:
            self.slide_box.value.metadata[SLIDE_KEY] = slide
        self.context.changed.emit()

    # -- the size of its pixels

    def _on_mpp(self) -> None:
        if self.slide_box.value is not None:
            self.set_mpp(self.mpp_row.box.value)

    def set_mpp(self, mpp: float) -> None:
        """Set the µm per pixel of the chosen slide."""
        layer: Any = self.slide_box.value
        self.controller.chosen.set_mpp(mpp)
        slide = self.controller.chosen.slide
        assert slide is not None
        layer.metadata[SLIDE_KEY] = slide
        self.context.resolved.emit("")
        self._place(layer, slide)
        self.context.changed.emit()

    # -- what is said of it

    def refresh(self) -> None:
        """Describe the chosen slide."""
        slide = self.controller.chosen.slide
        self.mpp_row.setVisible(slide is not None and slide.file_mpp is None)
        self.pictures_button.native.setVisible(slide is not None and bool(slide.associated))
        if slide is None:
            self.info.setText(escape(NO_SLIDE))
            self.info.setToolTip("")
            return
        h, w = slide.shape
        size = f"{w:,} × {h:,} px" + (f", {w * slide.mpp / 1000:.1f} × {h * slide.mpp / 1000:.1f} mm" if slide.mpp else "")
        mpp = f"{slide.mpp:.4g} µm per pixel" if slide.mpp else "<b>resolution unknown: choose or type it below</b>"
        notes = [escape(note_in_window(note)) for note in slide.notes]
        self.info.setText("<br>".join([escape(slide.format), size, mpp, *notes]))
        self.info.setToolTip("\n".join(f"{name}: {value}" for name, value in slide.properties.items() if len(value) < 100))

    def _show_pictures(self) -> None:
        slide = self.controller.chosen.slide
        for data, looks, _ in [] if slide is None else associated_layers(slide):
            self.context.view.replace(Image(data, **looks))
        self.viewer.reset_view()

    def _on_wanted(self, wanted: bool) -> None:  # noqa: FBT001 - a slot takes what its signal sends
        self.find_button.native.setVisible(wanted)

    def _ask_slide(self, *_: object) -> None:
        wanted = self.dropped.wanted
        if wanted is None:
            return
        words = f"Where is {wanted.info.slide}? (in a folder that is a slide, choose any file)"
        chosen, _filter = QFileDialog.getOpenFileName(self, words, str(wanted.path.parent))
        if chosen:
            self.message.clear()
            self.dropped.find(Path(chosen))
