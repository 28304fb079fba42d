"""The dock with the tile gallery: opened for the map at hand, and connected to the jobs on verdicts."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMainWindow
from shapely.geometry import box as polygon

from napari_histoad.errors import HistoadError, SettingsError
from napari_histoad.gui.gallery import TileGallery
from napari_histoad.gui.remedies import in_window
from napari_histoad.regions import Region
from napari_histoad.results import VERDICTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histoad.gui.section import PanelContext
    from napari_histoad.results import Verdicts


class GalleryDock:
    """Opens the gallery in a dock below the viewer, and does what its buttons ask for."""

    def __init__(self, context: PanelContext) -> None:
        self._context, self._viewer, self._controller = context, context.viewer, context.controller
        self.gallery: TileGallery | None = None
        self._dock: Any = None
        self._controller.verdicts.classified.connect(self._on_classified)
        self._controller.verdicts.explained.connect(self._on_explained)
        context.failed.connect(self._on_failed)

    def open(self) -> None:
        """Show the most informative tiles of the finished map."""
        source, slide = self._controller.maps.map, self._controller.chosen.slide
        if source is None or slide is None or not source.info.complete:
            raise SettingsError("there is no finished map to judge tiles of", "compute one in step 5")
        if self.gallery is None or self.gallery.source is not source:
            self._remove()
            self.gallery = TileGallery(self._viewer, source, slide)
            verdicts = self.gallery.verdicts
            guarded = self.gallery.message.guarded
            self.gallery.train_asked.connect(guarded(lambda: self._controller.verdicts.train_classifier(verdicts)))
            self.gallery.outline_asked.connect(guarded(lambda: self._outline(verdicts)))
            self.gallery.explain_asked.connect(self._explain)
            self._dock = self._viewer.window.add_dock_widget(self.gallery, name="Judge tiles", area="bottom")
            if isinstance(window := self._dock.parentWidget(), QMainWindow):
                # Below the layer list there is no room for it: together they are higher than a small screen.
                window.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)
        self._dock.show()
        self.gallery.setFocus()

    def hide(self) -> None:
        """Read no more pictures, and hide the gallery: its map is not the one at hand any more."""
        if self.gallery is not None:
            self.gallery.stop()
            with suppress(RuntimeError):  # the user has closed the dock
                self._dock.hide()

    def _remove(self) -> None:
        if self.gallery is not None:
            self.gallery.stop()
        if self._dock is not None:
            with suppress(LookupError, RuntimeError):  # the user has closed the dock
                self._viewer.window.remove_dock_widget(self._dock)

    def _outline(self, verdicts: Verdicts) -> None:
        normal = [Region(polygon(*verdict.box), verdict.name) for verdict in verdicts if verdict.name == VERDICTS[0]]
        if not normal:
            raise SettingsError("no tile is judged normal yet", "press N on a tile of normal tissue")
        added = self._context.outlines.add(normal)
        assert self.gallery is not None
        if added:
            self._context.outlines.tiles_added.emit(added)
            words = f"{'1 tile was' if added == 1 else f'{added} tiles were'} added to the outlines of normal tissue"
            self.gallery.say(f"{words}; the next training uses them too.")
        else:
            self.gallery.say("All tiles judged normal are outlined already.")

    def _explain(self, y: float, x: float) -> None:
        assert self.gallery is not None
        try:
            self._controller.verdicts.explain((y, x))
        except HistoadError as err:  # shown beside the tile, and not as a notification for each tile
            self.gallery.explanation_failed(in_window(err))

    def _on_failed(self, words: str, section: str) -> None:
        if section == "gallery" and self.gallery is not None and not self.gallery.explanation_failed(words):
            self.gallery.message.say(words)

    def _on_explained(self, panels: list[tuple[str, NDArray[np.uint8]]], words: str) -> None:
        if self.gallery is not None:
            self.gallery.show_explanation(panels, words)

    def _on_classified(self, _: object, words: str) -> None:
        if self.gallery is not None:
            self.gallery.say(f"{words} Compute the anomaly map again, then judge the tiles that the classifier is unsure of.")
