"""A row of tile pictures, read in the background, framed in the colour of their verdicts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import QListView, QListWidget, QListWidgetItem

from napari_histoad.errors import HistoadError
from napari_histoad.gui.pixmap import pixmap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histoad.slide import Slide

Box = tuple[float, float, float, float]

_PICTURE_PX = 112
_FRAME_PX = 6


class TileStrip(QListWidget):
    """Pictures of tiles, numbered or named by their verdicts, with frames in the colours of these."""

    failed = QtSignal(object)
    """The HistoadError because of which pictures are missing."""
    _read = QtSignal(object, int, object)
    """Boxes, index of one of them, and its pixels or a HistoadError; moves from the reading thread to the window's."""

    def __init__(self, slide: Slide, colours: dict[str, str]) -> None:
        super().__init__()
        self._slide, self._colours = slide, colours
        self._boxes: list[Box] | None = None  # of the tiles that are being read
        self._pixels: dict[int, NDArray[np.uint8]] = {}
        self._verdicts: dict[int, str | None] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._read.connect(self._on_read)
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setFlow(QListView.Flow.LeftToRight)
        self.setWrapping(False)
        self.setMovement(QListView.Movement.Static)
        self.setIconSize(QSize(_PICTURE_PX, _PICTURE_PX))
        self.setFixedHeight(_PICTURE_PX + 46)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # keys are the gallery's

    @property
    def reading(self) -> bool:
        """Whether some pictures are not shown yet."""
        return self._boxes is not None

    def show_tiles(self, boxes: list[Box]) -> None:
        """Show grey squares for tiles (y0, x0, y1, x1) in level-0 pixels, and start to read their pictures."""
        self.clear()
        blank = QPixmap(_PICTURE_PX, _PICTURE_PX)
        blank.fill(QColor("#dddddd"))
        for number in range(len(boxes)):
            self.addItem(QListWidgetItem(QIcon(blank), f"{number + 1}"))
        self._pixels, self._verdicts, self._boxes = {}, {}, boxes
        self._pool.submit(self._read_pictures, boxes)

    def stop(self) -> None:
        """Read no more pictures."""
        self._boxes = None

    def _read_pictures(self, boxes: list[Box]) -> None:
        for number, (y0, x0, y1, x1) in enumerate(boxes):
            if self._boxes is not boxes:
                return
            read: NDArray[np.uint8] | HistoadError
            try:
                read = self._slide.read_scaled(y0, x0, y1 - y0, x1 - x0, (_PICTURE_PX, _PICTURE_PX))
            except HistoadError as err:
                read = err
            try:
                self._read.emit(boxes, number, read)
            except RuntimeError:  # the window was closed meanwhile
                return

    def _on_read(self, boxes: list[Box], number: int, read: NDArray[np.uint8] | HistoadError) -> None:
        if self._boxes is not boxes:
            return
        if isinstance(read, HistoadError):
            self._boxes = None  # the other tiles would fail as well; one message is enough
            self.failed.emit(read)
            return
        self._pixels[number] = read
        if len(self._pixels) == len(boxes):
            self._boxes = None
        self.mark(number, self._verdicts.get(number))

    def mark(self, number: int, verdict: str | None) -> None:
        """Draw a tile with the frame and the name of its verdict, or with its number if it has none."""
        self._verdicts[number] = verdict
        item = self.item(number)
        assert item is not None
        item.setText(verdict or f"{number + 1}")
        if number not in self._pixels:
            return
        picture = pixmap(self._pixels[number])
        if verdict is not None:
            painter = QPainter(picture)
            pen = painter.pen()
            pen.setColor(QColor(self._colours[verdict]))
            pen.setWidth(2 * _FRAME_PX)
            painter.setPen(pen)
            painter.drawRect(0, 0, _PICTURE_PX, _PICTURE_PX)
            painter.end()
        icon = QIcon(picture)
        icon.addPixmap(picture, QIcon.Mode.Selected)  # not tinted when it is the current one
        item.setIcon(icon)
