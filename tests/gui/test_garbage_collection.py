"""Garbage is collected while the viewer rests."""

import gc

import pytest
from qtpy.QtWidgets import QApplication
from slide_writers import picture

from napari_histoad.gui import garbage_collection

A_DAY_MS = 86_400_000


@pytest.fixture
def full_collections():
    """Return the full collections that began; Python itself starts none, and rest comes only when a test says so."""
    seen = []

    def watch(phase, info):
        if phase == "start" and info["generation"] == 2:
            seen.append(phase)

    rest_ms = garbage_collection._collect.timeout()
    garbage_collection._collect.setTimeout(A_DAY_MS)
    threshold = gc.get_threshold()
    gc.set_threshold(threshold[0], threshold[1], 10**9)
    gc.callbacks.append(watch)
    yield seen
    gc.callbacks.remove(watch)
    gc.set_threshold(*threshold)
    garbage_collection._collect.cancel()
    garbage_collection._collect.setTimeout(rest_ms)


def collect_younger():
    for _ in range(10):
        gc.collect(1)


def rest():
    garbage_collection._collect.flush(restart_timer=False)


def test_collection_waits_until_the_viewer_rests(viewer, write_tiff, full_collections):
    viewer.open(str(write_tiff(picture(300, 420), mpp=0.5)), plugin="napari-histoad")
    collect_younger()
    for step in range(20):
        viewer.scene.camera.center = (10.0 * step, 0.0)
        QApplication.processEvents()
    assert full_collections == []
    rest()
    assert len(full_collections) == 1
    collect_younger()
    rest()  # nothing has moved
    assert len(full_collections) == 1
    viewer.scene.camera.zoom *= 1.1
    rest()
    assert len(full_collections) == 2
    viewer.scene.camera.zoom *= 1.1
    rest()  # few objects are new
    assert len(full_collections) == 2


def test_collection_starts_within_a_second_of_rest():
    assert 0 < garbage_collection._collect.timeout() < 1000
