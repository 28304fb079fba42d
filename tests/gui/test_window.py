"""The panel in small windows, before the slide is known in full, and beside napari's menus."""

import re

import numpy as np
import pytest
import safetensors.numpy
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QPushButton

from napari_histoad import AnomalyMap
from napari_histoad.calibration import CalibrationBasis
from napari_histoad.gui.controller import Review
from napari_histoad.gui.rates import rate_words
from napari_histoad.gui.remedies import note_in_window
from napari_histoad.gui.section import NO_SLIDE, SAMPLE_MENU
from napari_histoad.slide import open_slide


def _entries(menu, path=()):
    """All entries of a menu, as they are read: ``File > Open Sample > …``."""
    for action in menu.actions():
        name = action.text().replace("&&", "\0").replace("&", "").replace("\0", "&")
        if action.menu() is not None:
            yield from _entries(action.menu(), (*path, name))
        elif name:
            yield " > ".join((*path, name))


def test_the_panel_names_a_menu_entry_that_exists(viewer, panel):
    shown = list(_entries(viewer.window.file_menu, ("File",)))
    assert SAMPLE_MENU in shown
    assert SAMPLE_MENU in NO_SLIDE
    plugins = [name for name in _entries(viewer.window.plugins_menu, ("Plugins",)) if "omaly" in name]
    assert plugins == ["Plugins > Anomaly mapping (napari-histoad)"]
    assert not re.search(r"(.+) \(\1\)", plugins[0].split(" > ")[1])


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1500, 900)])
def test_small_windows_keep_their_size_and_every_button_within(viewer, panel, words, qtbot, sample, map_folder, width, height):
    window = viewer.window._qt_window
    window.resize(width, height)
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel.controller.maps.show(AnomalyMap.open(map_folder))
    qtbot.waitUntil(lambda: "region" in panel["review"].rate_info.text(), timeout=60_000)

    def in_view(widget):
        corners = (widget.mapTo(window, widget.rect().topLeft()), widget.mapTo(window, widget.rect().bottomRight()))
        return widget.isVisible() and all(window.rect().contains(corner) for corner in corners)

    save = panel["save"].save_button.native
    area = panel.scroll_area.viewport()
    qtbot.waitUntil(lambda: area.rect().contains(save.mapTo(area, save.rect().bottomRight())), timeout=60_000)  # scrolled to
    panel["review"].gallery_button.native.click()
    gallery = panel["review"].judging.gallery
    qtbot.waitUntil(lambda: not gallery.reading, timeout=60_000)
    buttons = gallery.findChildren(QPushButton)
    assert len(buttons) == 9
    qtbot.waitUntil(lambda: all(map(in_view, buttons)))
    qtbot.keyClick(gallery, Qt.Key.Key_E)
    pictures = [
        (name, np.full((256, 256, 3), 90, np.uint8)) for name in ("Tile", "Reconstruction", "Error map", "Class activation")
    ]
    gallery.explanation.show_panels(pictures, "score 3\n" * 8)
    qtbot.waitUntil(lambda: all(map(in_view, (gallery.explanation, *buttons))))
    gallery.message.say("something failed; " + "a long remedy " * 20)
    qtbot.waitUntil(lambda: all(map(in_view, (gallery.message, *buttons))))
    assert window.size().height() <= height
    assert window.size().width() <= width
    assert window.minimumSizeHint().height() <= 720
    gallery.stop()


def test_without_a_pixel_size_nothing_starts_and_the_reason_is_shown(viewer, panel, words, qtbot, write_tiff):
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


def test_settings_are_frozen_while_a_job_runs(viewer, panel, words, qtbot, sample, choose_method):
    viewer.open(str(sample.path), plugin="napari-histoad")
    settings = [widget for section in panel.sections.values() for widget in section.settings]
    settings.append(panel["detector"].steps_box.native)
    assert all(setting.isEnabled() for setting in settings)
    panel["tissue"].button.native.click()
    assert panel.controller.runner.busy
    assert not any(setting.isEnabled() for setting in settings)
    assert not panel["save"].save_button.enabled
    qtbot.waitUntil(lambda: not panel.controller.runner.busy, timeout=120_000)
    assert all(setting.isEnabled() for setting in settings)
    choose_method("colour")
    assert not panel["detector"].steps_box.enabled


def test_a_file_is_offered_as_a_detector_only_if_it_is_one(viewer, panel, words, qtbot, sample, detector_file, tmp_path):
    viewer.open(str(sample.path), plugin="napari-histoad")
    message, before = panel["map"].message, panel["map"].model_box.choices
    tensors, broken = tmp_path / "weights.safetensors", tmp_path / "broken.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(3, np.float32)}, tensors)
    broken.write_bytes(detector_file.read_bytes()[:2000])
    (tmp_path / "notes.txt").write_text("no detector")
    for file in (tensors, broken, tmp_path / "notes.txt"):
        panel["map"].model_file.value = file
        qtbot.waitUntil(lambda file=file: file.name in message.text() and not panel.controller.runner.busy, timeout=120_000)
        assert panel["map"].model_box.choices == before
        assert panel.controller.training.model is None
        assert "histoad train" not in message.text()
    panel["map"].model_file.value = detector_file
    qtbot.waitUntil(lambda: panel.controller.training.model == detector_file, timeout=120_000)
    assert message.isHidden()
    assert panel["map"].model_box.value == detector_file.name


@pytest.fixture
def finished(map_folder):
    return AnomalyMap.open(map_folder)


def _review(finished, basis, warning=None):
    class Source:
        calibration = type("C", (), {"basis": basis})()
        drift_warning = warning

    return Review(Source(), np.zeros((2, 2), np.uint32), [], 0.01, "no region; 5 of 10 tiles (50.0%) are")


def test_a_rate_is_never_promised_where_it_is_approximate_or_does_not_hold(finished):
    sure = CalibrationBasis("slides", tiles=900, groups=30, sources=30)
    for basis, most in ((sure, "At most"), (CalibrationBasis("slides", doubts=("self",), tiles=90), "About"), (None, "About")):
        by_rate = rate_words(_review(finished, basis), 0.01, by_discoveries=False)
        by_discoveries = rate_words(_review(finished, basis), 0.1, by_discoveries=True)
        assert f"{most} <b>1.00%</b>" in by_rate
        assert f"{most} <b>10.00%</b>" in by_discoveries
        assert ("approximate" in by_rate) == (basis is not None and basis.approximate)
    drifted = rate_words(_review(finished, sure, "98% of the tiles score above"), 0.01, by_discoveries=False)
    assert "At most" not in drifted
    assert "this slide differs" in drifted


def test_what_holds_for_a_map_stays_in_the_panel_as_long_as_the_map(viewer, panel, words, sample, map_folder, qtbot, monkeypatch):
    long = "98% of the tiles score above the median normal tile: " + "stain or scanner differ " * 20
    monkeypatch.setattr(AnomalyMap, "notes", property(lambda _: [long, "3 tiles could not be read (try --resume)"]))
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel.controller.maps.show(AnomalyMap.open(map_folder))
    assert panel["review"].notes.text() == f"{long}\n3 tiles could not be read"
    assert panel["review"].notes.isVisible()
    text = panel["review"].notes.words
    qtbot.waitUntil(lambda: text.document().size().height() <= text.height())
    viewer.layers.remove(panel["slide"].slide_box.value)
    assert panel["review"].notes.isHidden()


def test_notes_of_a_slide_are_shown_with_it(viewer, panel, words, write_tiff, monkeypatch):
    path = write_tiff(np.full((700, 700, 3), 240, np.uint8), "noted.tif")
    slide = open_slide(path)
    slide.notes = ("The file <b>states</b> 0.5 (to use it all the same: --override-mpp 0.5).",)
    panel.controller.chosen.choose(slide)
    panel.context.changed.emit()
    assert "The file &lt;b&gt;states&lt;/b&gt; 0.5." in panel["slide"].info.text()
    assert note_in_window("kept (as it is)") == "kept (as it is)"
