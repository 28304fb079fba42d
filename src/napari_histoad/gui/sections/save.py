"""Step 7: saves a report and the chosen exports of the finished map."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from magicgui.widgets import PushButton
from napari.utils.notifications import show_info
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_histoad.gui.messages import scroll_to
from napari_histoad.gui.section import Section
from napari_histoad.results import exports

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histoad.gui.section import PanelContext

REPORT = "report"
_USUAL = (REPORT, "geojson", "png")
_LAYOUT_MS = 200


class SaveSection(Section):
    """A list of the kinds of files to write, built-in ones and those of other packages, and the button that writes them."""

    name, title, order = "save", "7 · Save", 70

    def __init__(self, context: PanelContext) -> None:
        super().__init__(context)
        self._exports = {export.name: export for export in exports()}
        self.kinds = QListWidget()
        self.kinds.setWordWrap(True)
        self.kinds.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.kinds.setMaximumHeight(150)
        self.kinds.setToolTip("The files to save; the threshold of step 6 is used, and saved with the map")
        titles = {REPORT: "Report with pictures and measurements (HTML)"}
        for name, title in (titles | {name: export.title for name, export in self._exports.items()}).items():
            item = QListWidgetItem(title, self.kinds)
            item.setData(Qt.ItemDataRole.UserRole, name)
            item.setCheckState(Qt.CheckState.Checked if name in _USUAL else Qt.CheckState.Unchecked)
        self.save_button = PushButton(text="Save the checked files")
        self.add(self.kinds, self.save_button.native, self.message)
        self.kinds.itemChanged.connect(lambda _: self.refresh())
        self.save_button.changed.connect(self.guarded(self._save))
        self.controller.maps.saved.connect(self._on_saved)
        context.map_reviewed.connect(self._on_reviewed)

    def refresh(self) -> None:
        """Enable the section once the chosen slide has a finished map."""
        source = self.controller.maps.map
        self.setEnabled(source is not None and source.info.complete and not self.controller.runner.busy)
        self.save_button.enabled = bool(self.chosen())

    def chosen(self) -> list[str]:
        """Return the names of the checked exports, and `REPORT` if the report is checked."""
        items = filter(None, map(self.kinds.item, range(self.kinds.count())))
        return [item.data(Qt.ItemDataRole.UserRole) for item in items if item.checkState() == Qt.CheckState.Checked]

    def _save(self) -> None:
        chosen = self.chosen()
        self.controller.maps.save([self._exports[name] for name in chosen if name != REPORT], report=REPORT in chosen)

    def _on_saved(self, files: list[Path]) -> None:
        show_info(f"Saved in {files[0].parent}: {', '.join(f.name for f in files)}")

    def _on_reviewed(self) -> None:
        QTimer.singleShot(_LAYOUT_MS, partial(scroll_to, self.save_button.native))  # once text and list have their height
