import os
import sys
from functools import partial

import pytest

from napari_histoad.gui import sample as sample_module
from napari_histoad.gui.messages import Message


@pytest.fixture
def qtbot(qtbot):
    """It waits for as long as a busy machine takes: pytest-qt itself for five seconds only."""
    qtbot.waitUntil = partial(qtbot.waitUntil, timeout=600_000)
    return qtbot


@pytest.fixture(autouse=True)
def real_window():
    """These tests open real windows; without a display they fail and say how to get one. They are never skipped."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        pytest.fail("no display: run the tests with tox, or as python tools/with_display.py pytest tests")


@pytest.fixture
def viewer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1500, 950)
    return viewer


@pytest.fixture
def panel(viewer, monkeypatch, tmp_path):
    monkeypatch.setattr(sample_module, "SAMPLE_PX", 2048)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _, widget = viewer.window.add_plugin_dock_widget("napari-histoad", "Anomaly mapping")
    yield widget
    widget.controller.close()


@pytest.fixture
def choose_method(panel, qtbot):
    """Choose the method of a detector, once the background process has listed them."""

    def choose(name):
        box = panel["detector"].method_box
        qtbot.waitUntil(lambda: name in box.choices)
        box.value = name

    return choose


@pytest.fixture
def words(monkeypatch):
    """All that the user was told: errors in panel and gallery, and notifications."""
    said, say = [], Message.say

    def hear(message, *sentences):
        said.extend(sentences)
        say(message, *sentences)

    monkeypatch.setattr(Message, "say", hear)
    for module in ("panel", "sections.save"):
        monkeypatch.setattr(f"napari_histoad.gui.{module}.show_info", said.append)
    for room in ("reader", "section"):
        monkeypatch.setattr(f"napari_histoad.gui.{room}.show_error", said.append)
    return said
