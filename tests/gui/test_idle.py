"""Garbage is collected at rest."""

import gc

import pytest
from slide_writers import picture

from napari_histoad.gui import idle


@pytest.fixture
def full_collections(monkeypatch):
    """Return when full collections began, once none is due: Python itself does none meanwhile."""
    seen = []

    def watch(phase, info):
        if phase == "start" and info["generation"] == 2:
            seen.append(phase)

    monkeypatch.setattr(idle, "_REST_MS", 1000)
    idle._timer.cache_clear()
    threshold = gc.get_threshold()
    gc.set_threshold(threshold[0], threshold[1], 10**9)
    gc.callbacks.append(watch)
    yield seen
    gc.callbacks.remove(watch)
    gc.set_threshold(*threshold)
    idle._timer().stop()
    idle._timer.cache_clear()


def make_due():
    for _ in range(10):
        gc.collect(1)


def test_a_full_collection_waits_until_the_viewer_rests(viewer, qtbot, write_tiff, full_collections):
    viewer.open(str(write_tiff(picture(300, 420), mpp=0.5)), plugin="napari-histoad")
    make_due()
    for step in range(20):  # one and a half seconds of panning
        viewer.scene.camera.center = (10.0 * step, 0.0)
        qtbot.wait(80)
    assert full_collections == []
    qtbot.waitUntil(lambda: len(full_collections) == 1, timeout=10_000)
    viewer.scene.camera.zoom *= 1.1  # little is new since
    qtbot.wait(1500)
    assert len(full_collections) == 1
    make_due()
    viewer.scene.camera.zoom *= 1.1
    qtbot.waitUntil(lambda: len(full_collections) == 2, timeout=10_000)
