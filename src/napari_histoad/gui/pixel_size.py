"""A row to set the µm per pixel of a slide whose file does not state it."""

from __future__ import annotations

from functools import partial

from magicgui.widgets import FloatSpinBox, PushButton
from qtpy.QtCore import QLocale
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QWidget

_USUAL = {"×20": 0.5, "×40": 0.25}


class PixelSize(QWidget):
    """A field for the µm per pixel, a button that sets it, and a button for each usual magnification."""

    def __init__(self) -> None:
        super().__init__()
        self.box = FloatSpinBox(
            value=0, min=0, max=20, step=0.01, tooltip="µm per pixel of the full resolution, as stated by the scanner"
        )
        self.box.native.setDecimals(4)
        self.box.native.setLocale(QLocale.c())  # a point in every country, as in the files
        self.box.native.setSpecialValueText(" ")
        self.button = PushButton(text="Set", enabled=False)
        self.box.changed.connect(self._on_value)
        self.usual = {name: PushButton(text=f"{name}: {mpp:g}", tooltip=f"{mpp:g} µm per pixel") for name, mpp in _USUAL.items()}
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(QLabel("µm per pixel"), 0, 0)
        for column, (name, button) in enumerate(self.usual.items(), start=1):
            button.changed.connect(partial(self._choose, _USUAL[name]))
            layout.addWidget(button.native, 0, column)
        layout.addWidget(QLabel("or type it"), 1, 0)
        typed = QHBoxLayout()
        typed.addWidget(self.box.native, 1)
        typed.addWidget(self.button.native)
        layout.addLayout(typed, 1, 1, 1, 2)
        layout.setColumnStretch(1, 1)
        layout.setColumnStretch(2, 1)

    def show_value(self, mpp: float | None) -> None:
        """Show the µm per pixel in use, or an empty field."""
        self.box.value = mpp or 0

    def _on_value(self, value: float) -> None:
        self.button.enabled = value > 0

    def _choose(self, mpp: float, _: object = None) -> None:
        self.box.value = mpp
        self.button.native.click()
