"""Text in the panel: wrapped labels, and errors and warnings that stay until they are resolved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qtpy.compat import isalive
from qtpy.QtCore import Qt
from qtpy.QtGui import QTextOption
from qtpy.QtWidgets import QFrame, QHBoxLayout, QLabel, QScrollArea, QSizePolicy, QTextEdit, QWidget

from napari_histoad.errors import HistoadError
from napari_histoad.gui.remedies import in_window

if TYPE_CHECKING:
    from collections.abc import Callable

    from qtpy.QtGui import QResizeEvent

_LOOKS = {"error": ("✖", "#e8380d", "rgba(232, 56, 13, 0.14)"), "warning": ("⚠", "#e09b00", "rgba(224, 155, 0, 0.14)")}


class WrappedText(QTextEdit):
    """Plain text that can be selected and copied, as high as needed; long paths are wrapped at any character."""

    def __init__(self) -> None:
        super().__init__()
        self.setReadOnly(True)
        self.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setStyleSheet("QTextEdit { background: transparent; border: none; padding: 0px; }")
        self._document = self.document()
        assert self._document is not None
        self._document.setDocumentMargin(1)

    def text(self) -> str:
        """Return the text."""
        return self.toPlainText()

    def setPlainText(self, text: str | None) -> None:  # noqa: N802 - Qt's name
        """Show another text."""
        super().setPlainText(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        """Fit the height to the new width."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        assert self._document is not None
        viewport = self.viewport()
        assert viewport is not None
        self._document.setTextWidth(viewport.width())
        height = math.ceil(self._document.size().height()) + 2
        if height != self.height():
            self.setFixedHeight(height)


class InfoLabel(QLabel):
    """Wrapped text that takes no room while it is empty; ``rich`` text is HTML, other text is shown as it is."""

    def __init__(self, text: str = "", *, rich: bool = False) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.RichText if rich else Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        super().setText(text)
        self.setHidden(not text)

    def setText(self, text: str | None) -> None:  # noqa: N802 - Qt's name
        """Show another text, or hide the label."""
        super().setText(text)
        self.setVisible(bool(text))


class Message(QFrame):
    """A message, an ``error`` or a ``warning``, with a sign and a coloured edge; hidden while it is empty."""

    def __init__(self, kind: str = "error") -> None:
        super().__init__()
        sign, edge, ground = _LOOKS[kind]
        self.setObjectName("message")
        self.setStyleSheet(f"#message {{ border: none; border-left: 4px solid {edge}; background: {ground}; }}")
        self.sign = QLabel(sign)
        self.sign.setStyleSheet(f"color: {edge}; font-weight: bold;")
        self.words = WrappedText()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(6, 4, 4, 4)
        layout.addWidget(self.sign, 0, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self.words, 1)
        self.hide()

    def text(self) -> str:
        """Return the message, or an empty string."""
        return self.words.toPlainText()

    def say(self, *sentences: str) -> None:
        """Show sentences, each in its own paragraph; hide the message if there are none."""
        self.words.setPlainText("\n".join(filter(None, sentences)))
        self.setVisible(bool(self.text()))

    def clear(self, *_: object) -> None:
        """Hide the message; can be connected to any signal."""
        self.say()

    def guarded(self, action: Callable[[], object], fail: Callable[[str], object] | None = None) -> Callable[..., None]:
        """Return a slot that shows the error of an action, with its remedy: here, or by ``fail``."""

        def slot(*_: object) -> None:
            self.clear()
            try:
                action()
            except HistoadError as err:
                (fail or self.say)(in_window(err))

        return slot


def scroll_to(widget: QWidget) -> None:
    """Scroll the scroll area that contains a widget until the widget is visible; do nothing if it was deleted meanwhile."""
    if not isalive(widget):  # type: ignore[no-untyped-call]  # timers call this, and the panel may have been closed
        return
    parent = widget.parentWidget()
    while parent is not None and not isinstance(parent, QScrollArea):
        parent = parent.parentWidget()
    if parent is not None:
        parent.ensureWidgetVisible(widget, 0, 12)
