"""The mouse wheel scrolls the panel; it changes a setting only where that was chosen on purpose, by focus."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QAbstractScrollArea, QAbstractSlider, QAbstractSpinBox, QComboBox, QScrollBar, QTabBar, QWidget

__all__ = ["WheelGuard"]

_TURNED = (QAbstractSlider, QAbstractSpinBox, QComboBox, QTabBar)
"""Widgets whose value follows the wheel."""
_SCROLL_MS = 500
"""Turns of the wheel that follow each other this closely are one scroll."""


class WheelGuard(QObject):
    """Keeps the wheel from the settings inside a widget, also from those that are added later.

    A combo box, a spin box or a slider takes the wheel only while it has the focus, and a scroll that began elsewhere goes on
    over it. Everything else scrolls.

    Parameters
    ----------
    root : QWidget
    """

    def __init__(self, root: QWidget) -> None:
        super().__init__(root)
        self._root = root
        self._scrolled_at = 0
        # A child that was just added may still be under construction, and so may its own children.
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.timeout.connect(lambda: self._watch(self._root))
        self._watch(root)

    def _watch(self, widget: QWidget) -> None:
        for each in (widget, *widget.findChildren(QWidget)):
            each.removeEventFilter(self)  # installing one twice moves it to the front; this keeps it single
            each.installEventFilter(self)
            if _is_turned(each) and each.focusPolicy() == Qt.FocusPolicy.WheelFocus:
                each.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Pass the wheel on to what scrolls."""
        if event is None:
            return False
        kind = event.type()
        if kind == QEvent.Type.Wheel and isinstance(event, QWheelEvent) and isinstance(watched, QWidget):
            return self._on_wheel(watched, event)
        if kind == QEvent.Type.FocusIn:
            self._scrolled_at = 0
        elif kind in (QEvent.Type.ChildAdded, QEvent.Type.ChildPolished) and not self._again.isActive():
            self._again.start(0)
        return False

    def _on_wheel(self, widget: QWidget, event: QWheelEvent) -> bool:
        now = event.timestamp()
        if not _is_turned(widget):
            if isinstance(widget.parent(), QAbstractScrollArea):
                self._scrolled_at = now
            return False
        in_scroll = self._scrolled_at > 0 and now - self._scrolled_at < _SCROLL_MS
        if widget.hasFocus() and not in_scroll:
            return False
        self._scrolled_at = now
        event.ignore()  # Qt offers it to the parents then
        return True


def _is_turned(widget: QWidget) -> bool:
    return isinstance(widget, _TURNED) and not isinstance(widget, QScrollBar)
