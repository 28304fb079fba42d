"""Errors in the panel: in full, beside what caused them, until they no longer hold."""

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from napari_histoad.errors import HistoadError
from napari_histoad.gui.controller.runner import Handlers
from napari_histoad.gui.messages import Message
from napari_histoad.worker.protocol import CheckModel

LONG = "cannot write /" + "a_very_long_folder_name/" * 12 + "slide<b>bold</b>&amp;.tif: permission denied; choose another folder"


@pytest.fixture
def message(qtbot):
    widget = Message()
    qtbot.addWidget(widget)
    widget.resize(300, 50)
    return widget


def test_message_is_hidden_while_it_is_empty(message):
    assert message.isHidden()
    message.say("one thing failed; do another")
    assert not message.isHidden()
    assert message.text() == "one thing failed; do another"
    message.say("first", "second")
    assert message.text() == "first\nsecond"
    message.clear()
    assert message.isHidden()
    assert message.text() == ""


def test_message_wraps_long_paths_and_shows_markup_as_text(message, qtbot):
    message.say(LONG)
    message.show()
    assert message.text() == LONG
    text = message.words

    def seen_in_full():
        document = text.document()
        return document.size().width() <= text.viewport().width() and document.size().height() <= text.viewport().height()

    qtbot.waitUntil(lambda: text.viewport().width() < 300 and seen_in_full())
    message.resize(600, 50)
    qtbot.waitUntil(lambda: text.viewport().width() > 500 and seen_in_full())
    text.selectAll()
    text.copy()
    assert QApplication.clipboard().text() == message.text()


def _blank(write_tiff, name="blank.tif"):
    return str(write_tiff(np.full((700, 700, 3), 240, np.uint8), name))


def test_section_shows_an_error_until_it_is_resolved(viewer, panel, words, qtbot, sample, write_tiff, choose_method):
    viewer.open(_blank(write_tiff), plugin="napari-histoad")
    message = panel["map"].message
    panel["map"].map_button.native.click()
    qtbot.waitUntil(message.isVisible)
    assert "no tissue was found" in message.text()
    area = panel.scroll_area.viewport()
    qtbot.waitUntil(lambda: area.rect().contains(message.mapTo(area, message.rect().bottomLeft())))  # scrolled to
    panel["detector"].train_button.native.click()
    assert "no normal tissue is outlined" in panel["detector"].message.text()
    assert message.isVisible()  # the other one still holds
    choose_method("colour")
    assert panel["detector"].message.isHidden()
    panel["map"].map_button.native.click()
    assert message.isHidden()  # tried again
    qtbot.waitUntil(message.isVisible)
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel["slide"].slide_box.value = viewer.layers[-1]
    assert message.isHidden()  # of another slide
    assert all(section.message.isHidden() for section in panel.sections.values())


def test_section_shows_remedies_of_the_window(viewer, panel, words, qtbot, sample, monkeypatch):
    viewer.open(str(sample.path), plugin="napari-histoad")

    def fail():
        raise HistoadError("only 30 normal tiles were found", "outline more normal tissue, or use smaller tiles (--tile-px 128)")

    monkeypatch.setattr(panel.controller.training, "train", lambda *_, **__: fail())
    panel["detector"].train_button.native.click()
    assert panel["detector"].message.text() == (
        "only 30 normal tiles were found; outline more normal tissue in step 3, in a few more places"
    )
    panel.controller.runner.submit(CheckModel(model="none.safetensors"), Handlers("map", print))
    qtbot.waitUntil(panel["map"].message.isVisible)
    assert "none.safetensors" in panel["map"].message.text()


def test_hidden_panel_shows_errors_as_notifications(viewer, panel, words, monkeypatch):
    told = []
    monkeypatch.setattr("napari_histoad.gui.section.show_error", told.append)
    panel.hide()
    panel.controller.runner.failed.emit("it failed; try again", "map")
    assert told == ["it failed; try again"]
    assert panel["map"].message.text() == "it failed; try again"
