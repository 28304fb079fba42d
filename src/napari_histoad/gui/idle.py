"""Python's garbage is collected while the viewer rests, not in the middle of a pan."""

from __future__ import annotations

import gc
from functools import lru_cache
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

if TYPE_CHECKING:
    from napari.viewer import Viewer

__all__ = ["collect_while_idle"]

_REST_MS = 700
_DUE = 5
"""Collections of the younger generations since the last full one; Python thinks of a full one after ten."""


def collect_while_idle(viewer: Viewer) -> None:
    """From now on, collect all garbage whenever this viewer has not been moved for a moment.

    A full collection looks at every object of napari and of the libraries that slides need, a quarter of a million, and holds
    the window for 100 to 200 ms. Python does one whenever enough objects are new, which is while a slide is panned over.
    Done at rest nobody sees it, and the next pan of some hundred steps does without.
    """
    timer = _timer()
    for moved in (viewer.scene.camera.events.center, viewer.scene.camera.events.zoom):
        moved.connect(_moved)
    timer.start()


@lru_cache(1)
def _timer() -> QTimer:
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(_REST_MS)
    timer.timeout.connect(_collect)
    return timer


def _moved() -> None:
    _timer().start()


def _collect() -> None:
    if gc.get_count()[2] >= _DUE:
        gc.collect()
