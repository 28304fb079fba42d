"""The gallery in which tiles are judged one by one with the keyboard."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QDockWidget,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QPushButton,
    QVBoxLayout,
    QWidget,
)
from superqt import QFlowLayout
from superqt.utils import qdebounced

from napari_histoad.errors import HistoadError
from napari_histoad.gui.explanation import ExplanationRow
from napari_histoad.gui.layer_data import NORMAL_COLOUR
from napari_histoad.gui.messages import Message, WrappedText
from napari_histoad.gui.mouse_wheel import WheelGuard
from napari_histoad.gui.remedies import in_window
from napari_histoad.gui.tile_strip import TileStrip
from napari_histoad.results import VERDICTS, Verdicts, propose_tiles, verdict_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.viewer import Viewer
    from numpy.typing import NDArray
    from qtpy.QtGui import QKeyEvent, QResizeEvent

    from napari_histoad.maps import AnomalyMap
    from napari_histoad.slide import Slide

_COUNT = 24
_REST_MS = 250
_KEYS = {Qt.Key.Key_N: "Normal", Qt.Key.Key_A: "Anomalous", Qt.Key.Key_R: "Artefact", Qt.Key.Key_U: "Unsure"}
_COLOURS = {"Normal": NORMAL_COLOUR, "Anomalous": "#e8380d", "Artefact": "#8a8a8a", "Unsure": "#f0c000"}
_HELP = "Arrow keys: next and back · Z: undo · E: explain · M: more tiles · O: outline normal · T: train"


class TileGallery(QWidget):
    """Shows the most informative tiles of a map, spread over the slide; each verdict is saved at once.

    Keys: A anomalous, N normal, R artefact, U unsure; arrows, Z undo, E explain, M more, O outline normal, T train. The viewer
    moves to the current tile. While the explanation is shown, it follows the current tile.
    """

    train_asked = QtSignal()
    outline_asked = QtSignal()
    explain_asked = QtSignal(float, float)
    """(y, x) of the middle of a tile in level-0 pixels."""

    def __init__(self, viewer: Viewer, source: AnomalyMap, slide: Slide) -> None:
        super().__init__()
        self._viewer, self.source, self._slide = viewer, source, slide
        self.verdicts = Verdicts(verdict_file(source))
        self.rows = np.empty(0, np.int64)
        self.message = Message()
        self.pictures = TileStrip(slide, _COLOURS)
        self.pictures.failed.connect(lambda err: self.message.say(in_window(err)))
        self.pictures.currentRowChanged.connect(self._on_current)
        self.words, self.counts = WrappedText(), QLabel()
        rows = _ButtonRows()
        buttons = QFlowLayout(rows)
        buttons.setContentsMargins(0, 0, 0, 0)
        buttons.setHorizontalSpacing(4)
        buttons.setVerticalSpacing(4)
        for key, name in _KEYS.items():
            looks = f"border-left: 6px solid {_COLOURS[name]}; padding: 4px 10px;"
            buttons.addWidget(_button(f"{name} ({chr(key)})", partial(self.give, name), looks))
        buttons.addWidget(_button("Undo (Z)", self.undo))
        buttons.addWidget(_button("Explain (E)", self.explain))
        buttons.addWidget(_button("More (M)", self.propose))
        outline = _button("Outline the normal ones (O)", self.outline_asked.emit)
        outline.setToolTip("Add the tiles judged normal to the outlines of normal tissue; the next training uses them")
        buttons.addWidget(outline)
        buttons.addWidget(_button("Train classifier on my verdicts (T)", self.train_asked.emit))
        self.explanation = ExplanationRow()
        self.explanation.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 6, 4)
        line = QHBoxLayout()
        line.addWidget(self.words, 1)
        line.addWidget(self.counts, 0, Qt.AlignmentFlag.AlignTop)
        layout.addLayout(line)
        layout.addWidget(self.message)
        layout.addWidget(self.pictures)
        layout.addWidget(self.explanation, 1)
        layout.addWidget(rows)
        layout.addStretch(0)  # spare height goes below the buttons
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._explained, self._waiting = -1, False
        WheelGuard(self)
        self.propose()

    # -- which tiles

    def propose(self) -> None:
        """Show the most informative tiles that are not judged yet."""
        rows = propose_tiles(self.source, self.verdicts, _COUNT)
        if not len(rows):
            self.say("Every part of this map has been judged.")
            return
        self.rows = rows
        self.message.clear()
        # The columns of the table are read once here, and not at every key.
        self._scores, self._p_values = self.source.scores[rows], self.source.p_values[rows]
        self._probabilities = self.source.probabilities[rows]
        self.pictures.show_tiles([self._box(number) for number in range(len(rows))])
        self._show_counts()
        self.pictures.setCurrentRow(0)

    @property
    def reading(self) -> bool:
        """Whether some pictures are not shown yet."""
        return self.pictures.reading

    def stop(self) -> None:
        """Read no more pictures."""
        self.pictures.stop()

    def _box(self, number: int) -> tuple[float, float, float, float]:
        (y, x), side = self.source.origins[self.rows[number]].tolist(), self.source.info.tile_l0
        return y, x, y + side, x + side

    # -- verdicts

    def give(self, name: str) -> None:
        """Give a verdict on the current tile and move on."""
        number = self.pictures.currentRow()
        if not 0 <= number < len(self.rows):
            return
        try:
            self.verdicts.give(self._box(number), name)
        except HistoadError as err:
            self.message.say(in_window(err))
            return
        self.message.clear()
        self.pictures.mark(number, self.verdicts.of(self._box(number)))
        self._show_counts()
        if number + 1 < len(self.rows):
            self.pictures.setCurrentRow(number + 1)
        else:
            self.say("This was the last tile. M shows more tiles, T trains a classifier on your verdicts.")

    def undo(self) -> None:
        """Remove the last verdict and go to its tile."""
        try:
            box = self.verdicts.undo()
        except HistoadError as err:
            self.message.say(in_window(err))
            return
        self.message.clear()
        if box is None:
            self.say("There is nothing to undo.")
            return
        self._show_counts()
        for number in range(len(self.rows)):
            if np.allclose(self._box(number), box):
                self.pictures.mark(number, self.verdicts.of(self._box(number)))
                self.pictures.setCurrentRow(number)

    # -- explanation

    def explain(self) -> None:
        """Show or hide the explanation of the current tile by the detector or classifier."""
        if self.explanation.isHidden():
            self.explanation.show()
            QTimer.singleShot(0, partial(self._take_height, self.explanation.sizeHint().height()))
            self._ask_explanation()
        else:
            self.explanation.hide()
            QTimer.singleShot(0, partial(self._take_height, 0))  # once the layout knows

    def _take_height(self, explanation_px: int) -> None:
        """Set the height of the dock to what the explanation needs; 0 returns the room to the viewer."""
        dock, window = self.parentWidget(), self.window()
        while dock is not None and not isinstance(dock, QDockWidget):
            dock = dock.parentWidget()
        if dock is not None and isinstance(window, QMainWindow):
            dock.setMinimumHeight(0)  # Qt only increases it
            height = dock.height() - self.explanation.minimumHeight() + explanation_px if explanation_px else 1
            window.resizeDocks([dock], [height], Qt.Orientation.Vertical)

    @qdebounced(timeout=_REST_MS)  # tiles that are only passed by are not explained
    def _explain_soon(self) -> None:
        self._ask_explanation()

    def _ask_explanation(self) -> None:
        number = self.pictures.currentRow()
        if self.explanation.isHidden() or not 0 <= number < len(self.rows):
            return
        self._explained, self._waiting = number, True
        self.explanation.show_text("Explaining …")
        y0, x0, y1, x1 = self._box(number)
        self.explain_asked.emit((y0 + y1) / 2, (x0 + x1) / 2)

    def show_explanation(self, panels: list[tuple[str, NDArray[np.uint8]]], words: str) -> None:
        """Show an explanation; if the user has moved on meanwhile, ask for that of the current tile instead."""
        self._waiting = False
        if self._explained != self.pictures.currentRow():
            self._ask_explanation()
        else:
            self.explanation.show_panels(panels, words)

    def explanation_failed(self, words: str) -> bool:
        """Show an error in place of the awaited explanation; return False if none is awaited."""
        waited, self._waiting = self._waiting, False
        if waited:
            self.explanation.show_text(words)
        return waited

    def say(self, words: str) -> None:
        """Show a line."""
        self.words.setPlainText(words)

    def _show_counts(self) -> None:
        counts = self.verdicts.counts()
        counted = ", ".join(f"{counts[name]} {name.lower()}" for name in VERDICTS if name in counts)
        self.counts.setText(f"{len(self.verdicts)} verdicts: {counted}" if counted else _HELP)
        self.counts.setToolTip(_HELP)

    # -- the current tile

    def _on_current(self, number: int) -> None:
        if not 0 <= number < len(self.rows):
            return
        y0, x0, y1, x1 = self._box(number)
        shown = self.source.calibration.show_p(float(self._p_values[number]))
        words = f"Tile {number + 1} of {len(self.rows)} · score {self._scores[number]:.3g} · p {shown}"
        for name, p in zip(self.source.info.classes, self._probabilities[number], strict=True):
            words += f" · {name} {p:.0%}"
        self.say(words)
        mpp = self.source.info.slide_mpp
        self._viewer.scene.camera.center = ((y0 + y1) / 2 * mpp, (x0 + x1) / 2 * mpp)
        self._viewer.scene.camera.zoom = 1 / mpp  # a pixel of the screen per pixel of the slide
        if not self.explanation.isHidden():
            self._explain_soon()

    def keyPressEvent(self, event: QKeyEvent | Any) -> None:  # noqa: N802 - Qt's name
        """Do what the key stands for."""
        key = Qt.Key(event.key())
        actions = {
            Qt.Key.Key_Z: self.undo,
            Qt.Key.Key_E: self.explain,
            Qt.Key.Key_M: self.propose,
            Qt.Key.Key_O: self.outline_asked.emit,
            Qt.Key.Key_T: self.train_asked.emit,
        }
        if key in _KEYS:
            self.give(_KEYS[key])
        elif key in actions:
            actions[key]()
        elif key in (Qt.Key.Key_Right, Qt.Key.Key_Left, Qt.Key.Key_Space):
            step = -1 if key == Qt.Key.Key_Left else 1
            self.pictures.setCurrentRow(min(max(self.pictures.currentRow() + step, 0), len(self.rows) - 1))
        else:
            super().keyPressEvent(event)


class _ButtonRows(QWidget):
    """Buttons in as many rows as they need: a flow layout alone demands the height of one row, whatever its width."""

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        super().resizeEvent(event)
        if (layout := self.layout()) is not None:
            self.setMinimumHeight(layout.heightForWidth(self.width()))


def _button(words: str, action: Callable[[], object], looks: str = "") -> QPushButton:
    """Return a button that does not take the keyboard focus from the gallery."""
    button = QPushButton(words)
    button.setStyleSheet(looks)
    button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    button.clicked.connect(lambda _=False: action())
    return button
