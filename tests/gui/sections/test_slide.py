"""Step 1: the chosen slide and the size of its pixels, in the real panel."""

import numpy as np

from napari_histoad.gui.remedies import note_in_window
from napari_histoad.slide import open_slide


def test_slide_section_asks_for_the_pixel_size(viewer, panel, words, qtbot, write_tiff):
    blank = np.full((700, 700, 3), 240, np.uint8)
    viewer.open(str(write_tiff(blank, "unknown.tif", mpp=None)), plugin="napari-histoad")
    assert panel["slide"].mpp_row.isVisible()
    assert panel["slide"].mpp_row.box.value == 0
    assert panel["slide"].mpp_row.box.native.text().strip() == ""
    assert not panel["slide"].mpp_row.button.enabled
    for button in (panel["map"].map_button, panel["detector"].train_button, panel["tissue"].button):
        assert not button.enabled
        assert "µm per pixel" in button.tooltip
    assert "µm per pixel" in panel["map"].reason_info.text()
    assert panel["map"].reason_info.isVisible()
    panel["slide"].mpp_row.usual["×20"].native.click()
    assert panel.controller.chosen.slide.mpp == 0.5
    assert panel["map"].map_button.enabled
    assert panel["detector"].train_button.enabled
    assert panel["map"].reason_info.isHidden()
    assert not panel["map"].map_button.tooltip
    panel["slide"].mpp_row.usual["×40"].native.click()
    assert panel.controller.chosen.slide.mpp == 0.25
    viewer.open(str(write_tiff(blank, "other.tif", mpp=None)), plugin="napari-histoad")
    panel["slide"].slide_box.value = viewer.layers[-1]
    assert panel["slide"].mpp_row.box.value == 0  # not the other slide's
    panel["slide"].mpp_row.box.value = 0.2528
    panel["slide"].mpp_row.button.native.click()
    assert panel.controller.chosen.slide.mpp == 0.2528


def test_slide_section_shows_the_notes_of_its_slide(viewer, panel, words, write_tiff, monkeypatch):
    path = write_tiff(np.full((700, 700, 3), 240, np.uint8), "noted.tif")
    slide = open_slide(path)
    slide.notes = ("The file <b>states</b> 0.5 (to use it all the same: --override-mpp 0.5).",)
    panel.controller.chosen.choose(slide)
    panel.context.changed.emit()
    assert "The file &lt;b&gt;states&lt;/b&gt; 0.5." in panel["slide"].info.text()
    assert note_in_window("kept (as it is)") == "kept (as it is)"
