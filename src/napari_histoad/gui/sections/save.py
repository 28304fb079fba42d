"""Step 7: saves the flagged regions, a picture and a report."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from magicgui.widgets import PushButton
from napari.utils.notifications import show_info
from qtpy.QtCore import QTimer

from napari_histoad.gui.messages import scroll_to
from napari_histoad.gui.section import Section

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histoad.gui.section import PanelContext

__all__ = ["SaveSection"]

_LAYOUT_MS = 200


class SaveSection(Section):
    """The button that writes the results of the review beside the map."""

    name, title, order = "save", "7 · Save", 70

    def __init__(self, context: PanelContext) -> None:
        super().__init__(context)
        self.save_button = PushButton(text="Save regions, picture and report")
        self.add(self.save_button.native, self.message)
        self.save_button.changed.connect(self.guarded(self._save))
        self.controller.maps.saved.connect(self._on_saved)
        context.map_reviewed.connect(self._on_reviewed)

    def refresh(self) -> None:
        """Enable the section once the chosen slide has a finished map."""
        source = self.controller.maps.map
        self.setEnabled(source is not None and source.info.complete and not self.controller.runner.busy)

    def _save(self) -> None:
        self.controller.maps.save()

    def _on_saved(self, files: list[Path]) -> None:
        show_info(f"Saved in {files[0].parent}: {', '.join(f.name for f in files)}")

    def _on_reviewed(self) -> None:
        QTimer.singleShot(_LAYOUT_MS, partial(scroll_to, self.save_button.native))  # once text and list have their height
