"""Save the screenshots of the documentation by driving the real panel.

python tools/with_display.py python docs/make_screenshots.py [--steps 400]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import napari
from PIL import Image
from qtpy.QtWidgets import QApplication

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parent
LAYOUT_S = 2.0
COLOURS = 256


def wait(ready: Callable[[], bool]) -> None:
    """Let the window work until a condition holds."""
    while not ready():
        QApplication.processEvents()
        time.sleep(0.01)


def save(viewer: napari.Viewer, name: str) -> None:
    """Save a screenshot of the window as a PNG with few colours, once its layout is settled."""
    until = time.monotonic() + LAYOUT_S
    wait(lambda: time.monotonic() > until)
    pixels = viewer.window.screenshot(canvas_only=False, flash=False)
    picture = Image.fromarray(pixels).convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.save(DOCS / f"{name}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    options = parser.parse_args()
    tempfile.tempdir = tempfile.mkdtemp()  # results of an earlier sample slide would be shown, too
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    _, panel = viewer.window.add_plugin_dock_widget("napari-histoad", "Anomaly mapping")
    viewer.open_sample("napari-histoad", "planted")
    runner = panel.controller.runner
    wait(lambda: panel.context.slide_layer is not None and not runner.busy)
    panel["detector"].steps_box.value = options.steps
    for button in (panel["detector"].train_button, panel["map"].map_button):
        button.native.click()
        wait(lambda: not runner.busy)
    viewer.layers["Normal tissue"].visible = False
    save(viewer, "panel")
    panel["review"].gallery_button.native.click()
    save(viewer, "judging")
    viewer.close()


if __name__ == "__main__":
    main()
