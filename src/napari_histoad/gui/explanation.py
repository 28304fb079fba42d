"""Shows a tile, its reconstruction, its error map and its class activation side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QScrollArea, QWidget

from napari_histoad.gui.pixmap import pixmap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PICTURE_PX, _LEAST_PX = 190, 60


class ExplanationRow(QScrollArea):
    """A row of titled pictures with text beside them; it scrolls where the window is too small."""

    def __init__(self) -> None:
        super().__init__()
        inside = QWidget()
        self._grid = QGridLayout(inside)
        self._grid.setContentsMargins(0, 4, 0, 4)
        self._grid.setHorizontalSpacing(10)
        self.setWidget(inside)
        self.setWidgetResizable(True)
        self.setFrameShape(QScrollArea.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # keys are the gallery's
        self.setMinimumHeight(_LEAST_PX)
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.setFixedWidth(_PICTURE_PX)
        self.words.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self._pictures: list[QLabel] = []

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the size with pictures, so that the layout does not jump while the next tile is explained."""
        return QSize(4 * _PICTURE_PX, _PICTURE_PX + 44)

    @property
    def titles(self) -> list[str]:
        """Titles of the pictures."""
        return [str(picture.property("title")) for picture in self._pictures]

    def show_text(self, words: str) -> None:
        """Show text without pictures."""
        self.show_panels([], words)

    def show_panels(self, panels: list[tuple[str, NDArray[np.uint8]]], words: str) -> None:
        """Show titled pictures (H, W, 3) uint8 with text beside them."""
        while (item := self._grid.takeAt(0)) is not None:
            if (widget := item.widget()) is not None and widget is not self.words:
                widget.setParent(None)
                widget.deleteLater()
        self._pictures = []
        for column, (title, pixels) in enumerate(panels):
            self._grid.addWidget(QLabel(title), 0, column)
            self._grid.addWidget(self._picture(title, pixels), 1, column)
        self.words.setText(words)
        self._grid.addWidget(self.words, 1, len(panels))
        for column in range(self._grid.columnCount() + 1):
            self._grid.setColumnStretch(column, int(column == len(panels) + 1))

    def _picture(self, title: str, pixels: NDArray[np.uint8]) -> QLabel:
        label = QLabel()
        label.setProperty("title", title)
        smooth = Qt.TransformationMode.SmoothTransformation
        label.setPixmap(pixmap(pixels).scaled(_PICTURE_PX, _PICTURE_PX, Qt.AspectRatioMode.KeepAspectRatio, smooth))
        self._pictures.append(label)
        return label
