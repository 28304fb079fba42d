"""Make the pictures of the documentation by driving the real panel.

python tools/with_display.py python docs/make_screenshots.py
"""

from __future__ import annotations

import time
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

DOCS = Path(__file__).parent


def main() -> None:
    """Open the sample, train, map, and keep a screenshot."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    _, panel = viewer.window.add_plugin_dock_widget("napari-histoad", "Anomaly mapping")
    viewer.open_sample("napari-histoad", "planted")
    idle = [True]
    panel.controller.busy_changed.connect(lambda busy: idle.__setitem__(0, not busy))

    def wait() -> None:
        while not idle[0]:
            QApplication.processEvents()
            time.sleep(0.01)

    panel.steps_box.value = 400
    for button in (panel.train_button, panel.map_button):
        button.native.click()
        wait()
    viewer.layers["Normal tissue"].visible = False
    settled = time.monotonic() + 2
    while time.monotonic() < settled:
        QApplication.processEvents()
    viewer.window.screenshot(str(DOCS / "panel.png"), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    main()
