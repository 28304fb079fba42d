"""Collects Python's garbage while the viewer rests, not while a slide is moved."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from superqt.utils import qdebounced

if TYPE_CHECKING:
    from napari.viewer import Viewer

_REST_MS = 700
_MIN_YOUNGER = 5
"""Collections of the younger generations since the last full one; Python itself starts a full one after ten."""


def collect_while_idle(viewer: Viewer) -> None:
    """Collect all garbage from now on whenever this viewer has not been moved for a moment.

    A full collection visits a quarter of a million objects of napari and of the libraries that read slides, and blocks the
    window for 100 to 200 ms. Python starts one when enough objects are new, which is while a slide is moved. One that is done
    at rest is not noticed, and the next some hundred movements need none.
    """
    for moved in (viewer.scene.camera.events.center, viewer.scene.camera.events.zoom):
        moved.connect(_moved)
    _collect()


def _moved() -> None:
    _collect()


@qdebounced(timeout=_REST_MS)
def _collect() -> None:
    if gc.get_count()[2] >= _MIN_YOUNGER:
        gc.collect()
