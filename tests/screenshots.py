"""Screenshots of the window for people to look at, in test-out/ or the folder HISTOAD_SCREENSHOTS."""

import os
from pathlib import Path

from qtpy.QtWidgets import QApplication

__all__ = ["shot"]

FOLDER = Path(os.environ.get("HISTOAD_SCREENSHOTS", Path(__file__).parents[1] / "test-out"))


def shot(viewer, name: str) -> None:
    """Save a picture of the whole window once it has drawn what it was told."""
    for _ in range(5):  # layout, then what the layout asks for
        QApplication.processEvents()
    FOLDER.mkdir(exist_ok=True, parents=True)
    viewer.window.screenshot(str(FOLDER / f"{name}.png"), canvas_only=False, flash=False)
