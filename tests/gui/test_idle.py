"""Garbage is collected at rest."""

import gc

import pytest
from qtpy.QtWidgets import QApplication
from slide_writers import picture

from napari_histoad.gui import idle

A_DAY_MS = 86_400_000


@pytest.fixture
def full_collections(monkeypatch):
    """Return the full collections that began; Python itself starts none, and rest comes only when a test says so."""
    seen = []

    def watch(phase, info):
        if phase == "start" and info["generation"] == 2:
            seen.append(phase)

    monkeypatch.setattr(idle, "_REST_MS", A_DAY_MS)
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


def test_a_full_collection_waits_until_the_viewer_rests(viewer, write_tiff, full_collections):
    viewer.open(str(write_tiff(picture(300, 420), mpp=0.5)), plugin="napari-histoad")
    timer = idle._timer()
    make_due()
    for step in range(20):
        timer.stop()
        viewer.scene.camera.center = (10.0 * step, 0.0)
        assert timer.isActive()  # each movement starts the wait anew
        QApplication.processEvents()
    assert full_collections == []
    timer.timeout.emit()
    assert len(full_collections) == 1
    timer.stop()
    viewer.scene.camera.zoom *= 1.1
    assert timer.isActive()
    timer.timeout.emit()  # little is new since
    assert len(full_collections) == 1
    make_due()
    timer.timeout.emit()
    assert len(full_collections) == 2


def test_rest_is_less_than_a_second():
    timer = idle._timer()
    assert timer.isSingleShot()
    assert 0 < timer.interval() < 1000
