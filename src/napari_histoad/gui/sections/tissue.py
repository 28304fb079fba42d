"""Step 2: shows which parts of the slide are tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from magicgui.widgets import PushButton
from napari.layers import Labels

from napari_histoad.gui.layer_data import tissue_layer
from napari_histoad.gui.messages import InfoLabel
from napari_histoad.gui.section import Section

if TYPE_CHECKING:
    from napari_histoad.gui.section import PanelContext
    from napari_histoad.tiles import TissueMask


class TissueSection(Section):
    """A button that outlines the tissue, and its area."""

    name, title, order = "tissue", "2 · Tissue", 20

    def __init__(self, context: PanelContext) -> None:
        super().__init__(context)
        self.button = PushButton(text="Show tissue", tooltip="Outline the detected tissue; the background is never analysed")
        self.info = InfoLabel()
        self.add(self.button.native, self.message, self.info)
        self.button.changed.connect(self.guarded(self.controller.chosen.find_tissue))
        self.controller.chosen.tissue_found.connect(self._on_found)

    def clear(self) -> None:
        """Remove the area of the former slide."""
        super().clear()
        self.info.setText("")

    def refresh(self) -> None:
        """Update the button."""
        self.enable(self.button)

    def _on_found(self, tissue: TissueMask, area_mm2: float) -> None:
        slide = self.controller.chosen.slide
        if slide is None or slide.mpp is None:
            return
        data, looks, _ = tissue_layer(tissue, slide.mpp, slide.name)
        self.context.view.replace(Labels(data, **looks)).contour = 2
        share = 100 * tissue.mask.mean()
        self.info.setText(f"{area_mm2:.2f} mm² of tissue, {share:.0f}% of the slide")
