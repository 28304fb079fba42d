"""Makes the mouse wheel scroll the panel; it changes a setting only if that has the focus."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QAbstractScrollArea, QAbstractSlider, QAbstractSpinBox, QComboBox, QScrollBar, QTabBar, QWidget

_USES_WHEEL = (QAbstractSlider, QAbstractSpinBox, QComboBox, QTabBar)
"""Widgets whose value the wheel changes."""
_SCROLL_MS = 500
"""Wheel events within this time belong to one scroll."""


class WheelGuard(QObject):
    """Prevents accidental changes of settings by the wheel, in all children of a widget, also those added later.

    A combo box, spin box or slider uses the wheel only while it has the focus; a scroll that began elsewhere continues over it.
    """

    def __init__(self, root: QWidget) -> None:
        super().__init__(root)
        self._root = root
        self._scrolled_at = 0
        # A new child may not have all of its own children yet.
        self._watch_again = QTimer(self)
        self._watch_again.setSingleShot(True)
        self._watch_again.timeout.connect(lambda: self._watch(self._root))
        self._watch(root)

    def _watch(self, widget: QWidget) -> None:
        for each in (widget, *widget.findChildren(QWidget)):
            each.removeEventFilter(self)  # installing it twice would move it to the front
            each.installEventFilter(self)
            if _uses_wheel(each) and each.focusPolicy() == Qt.FocusPolicy.WheelFocus:
                each.setFocusPolicy(Qt.FocusPolicy.StrongFocus)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Pass the wheel on to the scroll area."""
        if event is None:
            return False
        kind = event.type()
        if kind == QEvent.Type.Wheel and isinstance(event, QWheelEvent) and isinstance(watched, QWidget):
            return self._on_wheel(watched, event)
        if kind == QEvent.Type.FocusIn:
            self._scrolled_at = 0
        elif kind in (QEvent.Type.ChildAdded, QEvent.Type.ChildPolished) and not self._watch_again.isActive():
            self._watch_again.start(0)
        return False

    def _on_wheel(self, widget: QWidget, event: QWheelEvent) -> bool:
        now = event.timestamp()
        if not _uses_wheel(widget):
            if isinstance(widget.parent(), QAbstractScrollArea):
                self._scrolled_at = now
            return False
        in_scroll = self._scrolled_at > 0 and now - self._scrolled_at < _SCROLL_MS
        if widget.hasFocus() and not in_scroll:
            return False
        self._scrolled_at = now
        event.ignore()  # Qt offers it to the parents then
        return True


def _uses_wheel(widget: QWidget) -> bool:
    return isinstance(widget, _USES_WHEEL) and not isinstance(widget, QScrollBar)
