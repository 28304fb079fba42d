"""Wheel events as the window system sends them, over each kind of setting of the real panel."""

import pytest
from magicgui.widgets import ComboBox, FloatSlider, Slider, SpinBox
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import (
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDial,
    QDoubleSpinBox,
    QLabel,
    QScrollArea,
    QScrollBar,
    QSlider,
    QVBoxLayout,
    QWidget,
)
from superqt import QLabeledDoubleSlider, QRangeSlider

from napari_histoad.gui.mouse_wheel import WheelGuard

KINDS = (QAbstractSlider, QAbstractSpinBox, QComboBox)


class Turn(QWheelEvent):
    """Says when it happened, as the window system's events do."""

    at = 0

    def timestamp(self):
        return self.at


def turn(widget, notches=-1, at=0):
    """Turn the wheel over the middle of a widget, in what lies on top there, and pass it on to its parents as Qt does."""
    target, accepted = widget.childAt(widget.rect().center()) or widget, False
    place = widget.mapToGlobal(widget.rect().center())
    while not accepted:
        event = Turn(
            QPointF(target.mapFromGlobal(place)), QPointF(place), QPoint(), QPoint(0, 120 * notches),
            Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        event.at = at
        accepted = QApplication.sendEvent(target, event) and event.isAccepted()
        target = target.parentWidget()
        accepted |= target is None


def value_of(widget):
    return widget.currentText() if isinstance(widget, QComboBox) else widget.value()


def settings_in(root):
    return [w for w in root.findChildren(QWidget) if isinstance(w, KINDS) and not isinstance(w, QScrollBar)]


def test_wheel_over_the_panel_changes_no_setting(viewer, panel, words, qtbot, choose_method):
    viewer.open_sample("napari-histoad", "planted")
    choose_method("embedding")
    panel["review"].setEnabled(True)
    panel["slide"].mpp_row.setVisible(True)
    panel["review"].rate_slider.setValue(300)
    bar = panel.scroll_area.verticalScrollBar()
    qtbot.waitUntil(lambda: bar.maximum() > 0)
    shown = [w for w in settings_in(panel) if w.isVisible()]
    assert len(shown) >= 8
    before = [value_of(w) for w in shown]
    for widget in shown:
        for notches in (-1, 1):
            bar.setValue((bar.maximum() + bar.minimum()) // 2)
            turn(widget, notches)
            assert bar.value() != (bar.maximum() + bar.minimum()) // 2, widget.toolTip()
            assert not widget.hasFocus()
    assert [value_of(w) for w in shown] == before


def test_wheel_changes_the_setting_with_the_focus(viewer, panel, words, qtbot):
    viewer.open_sample("napari-histoad", "planted")
    panel.window().activateWindow()
    qtbot.waitUntil(panel.window().isActiveWindow)
    panel["detector"].steps_box.native.setFocus()
    qtbot.waitUntil(panel["detector"].steps_box.native.hasFocus)
    before = panel["detector"].steps_box.value
    turn(panel["detector"].steps_box.native, 1)
    assert panel["detector"].steps_box.value == before + 100


@pytest.fixture
def column(qtbot):
    """A scrolled column with a guard, and a function that adds to it."""
    root, body = QScrollArea(), QWidget()
    layout = QVBoxLayout(body)
    tall = QLabel("tall")
    tall.setFixedHeight(2000)
    layout.addWidget(tall)
    root.setWidget(body)
    root.setWidgetResizable(True)
    root.resize(300, 300)
    guard = WheelGuard(root)
    qtbot.addWidget(root)
    root.show()
    root.activateWindow()
    qtbot.waitUntil(root.isActiveWindow)

    def add(widget):
        layout.insertWidget(0, widget)
        qtbot.waitUntil(widget.isVisible)
        QApplication.processEvents()
        root.verticalScrollBar().setValue(0)
        return widget

    yield root, add
    guard.deleteLater()


def _combo():
    box = QComboBox()
    box.addItems(["a", "b", "c"])
    return box


def _editable():
    box = _combo()
    box.setEditable(True)
    return box


def _slid(slider):
    slider.setRange(0, 100)
    slider.setValue((20, 60) if isinstance(slider, QRangeSlider) else 50)
    return slider


@pytest.mark.parametrize(
    "make",
    [
        _combo,
        _editable,
        lambda: QDoubleSpinBox(value=5),
        lambda: _slid(QSlider(Qt.Orientation.Horizontal)),
        lambda: _slid(QDial()),
        lambda: _slid(QLabeledDoubleSlider(Qt.Orientation.Horizontal)),
        lambda: _slid(QRangeSlider(Qt.Orientation.Horizontal)),
        lambda: ComboBox(choices=["a", "b"]).native,
        lambda: SpinBox(value=5).native,
        lambda: Slider(value=5).native,
        lambda: FloatSlider(value=5, max=10).native,
    ],
)
def test_wheel_guard_covers_widgets_added_later(column, make):
    root, add = column
    widget = add(make())
    inner = [widget, *settings_in(widget)] if isinstance(widget, KINDS) else settings_in(widget)
    before = [value_of(w) for w in inner]
    assert inner
    for each in inner:
        turn(each)
    assert [value_of(w) for w in inner] == before
    assert root.verticalScrollBar().value() > 0


def test_wheel_scroll_continues_over_a_setting_with_the_focus(column, qtbot):
    root, add = column
    box = add(QDoubleSpinBox(value=5))
    box.setFocus()
    qtbot.waitUntil(box.hasFocus)
    turn(root.widget(), at=1000)
    scrolled = root.verticalScrollBar().value()
    turn(box, at=1100)
    assert box.value() == 5
    assert root.verticalScrollBar().value() > scrolled
    turn(box, at=5000)
    assert box.value() != 5
