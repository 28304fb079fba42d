"""Step 3: outlines of normal tissue, drawn or imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from magicgui.widgets import PushButton
from napari.layers import Shapes
from qtpy.QtWidgets import QFileDialog

from napari_histoad.gui.annotation_layers import other_layer, read_by_class
from napari_histoad.gui.messages import InfoLabel
from napari_histoad.gui.remedies import note_in_window
from napari_histoad.gui.section import Section
from napari_histoad.regions import count_classes

if TYPE_CHECKING:
    from napari_histoad.gui.section import PanelContext


class NormalSection(Section):
    """Buttons to draw outlines of normal tissue and to import them from a file."""

    name, title, order = "normal", "3 · Normal tissue", 30

    def __init__(self, context: PanelContext) -> None:
        super().__init__(context)
        self.outline_button = PushButton(text="Outline normal tissue", tooltip="Draw a few areas of normal tissue")
        self.import_button = PushButton(
            text="Import outlines…", tooltip="From a file, such as QuPath's GeoJSON; outlines of normal tissue can be edited"
        )
        self.info = InfoLabel()
        self.add(self.outline_button.native, self.import_button.native, self.message, self.info)
        self.outline_button.changed.connect(self.guarded(self._draw))
        self.import_button.changed.connect(self.guarded(self._ask_file))
        context.outlines.tiles_added.connect(self._on_tiles_added)

    def clear(self) -> None:
        """Remove texts about the former slide."""
        super().clear()
        self.info.setText("")

    def slide_shown(self) -> None:
        """Restore the outlines that were saved for the chosen slide."""
        self.guarded(self._restore)()

    def _restore(self) -> None:
        layer, slide, out = self.context.slide_layer, self.controller.chosen.slide, self.controller.chosen.out
        if layer is not None and slide is not None and out is not None:
            count = self.context.outlines.open(layer, out, slide.name, elsewhere=slide.path.parent not in out.parents)
            if count:
                self.info.setText(f"{count} outlines of normal tissue were restored from {out.name}.")

    def refresh(self) -> None:
        """Update the buttons: outlines can be drawn before the resolution is known."""
        enabled = self.controller.chosen.slide is not None and not self.controller.runner.busy
        self.outline_button.enabled = self.import_button.enabled = enabled

    def _draw(self) -> None:
        self.context.outlines.draw()
        self.info.setText("Draw around normal tissue, in a few different places. Then click Train in step 4.")

    def _ask_file(self) -> None:
        slide = self.controller.chosen.slide
        folder = Path.home() if slide is None else slide.path.parent
        kinds = "Annotations (*.geojson *.json *.gz *.zip);;All files (*)"
        chosen, _ = QFileDialog.getOpenFileName(self, "Import outlines", str(folder), kinds)
        if chosen:
            self.import_outlines(Path(chosen))

    def import_outlines(self, path: Path) -> None:
        """Add the outlines of normal tissue in a file, and show outlines of other classes in a layer of their own."""
        layer = self.context.slide_layer
        normal, others, notes = read_by_class(path, layer)
        added = self.context.outlines.add(normal)
        words = [f"{path.name}: {added} of {len(normal)} outlines of normal tissue were added."]
        if not normal:
            words = [f"{path.name} holds no outlines of normal tissue."]
        elif not added:
            words = [f"The outlines of normal tissue in {path.name} were added before."]
        if others:
            data, looks, _ = other_layer(path, others, layer)
            self.context.view.replace(Shapes(data, **looks))
            words.append(f"Outlines of other classes are shown, but not used for training: {count_classes(others)}.")
        self.info.setText("\n".join([*words, *map(note_in_window, notes)]))

    def _on_tiles_added(self, count: int) -> None:
        self.info.setText(f"{count} tiles judged normal were added to the outlines. Click Train to learn from them.")
