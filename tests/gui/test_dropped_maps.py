"""A finished map in the window again: on its slide, at its threshold, ready to be reviewed."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from napari.layers import Labels
from qtpy.QtWidgets import QFileDialog
from screenshots import shot

from napari_histoad import AnomalyMap, map_slide
from napari_histoad.gui import reader
from napari_histoad.gui.controller.runner import JobRunner
from napari_histoad.gui.layer_data import MAP_KEY
from napari_histoad.maps import save_labels
from napari_histoad.results import measure_regions
from napari_histoad.slide import open_slide


@pytest.fixture
def case(sample, map_folder, tmp_path):
    """A slide and its map in a folder of results elsewhere, saved at 2%."""
    slide = tmp_path / "slides" / "sample.tif"
    slide.parent.mkdir()
    shutil.copyfile(sample.path, slide)
    folder = shutil.copytree(map_folder, slide.parent / "maps" / "sample.ome.zarr")
    described = folder / "zarr.json"
    content = json.loads(described.read_text())
    for known in content["attributes"].values():
        if "slide_file" in known:
            known |= {"slide_file": str(slide), "slide_relative": "../sample.tif"}
    described.write_text(json.dumps(content))
    save_labels(AnomalyMap.open(folder), 0.02)
    return slide, folder


@pytest.fixture
def told(monkeypatch):
    said = []
    monkeypatch.setattr(reader, "show_info", said.append)
    return said


def labels_of(viewer):
    return [y for y in viewer.layers if isinstance(y, Labels) and MAP_KEY in y.metadata and y.name.startswith("Flagged")]


def drop(viewer, path):
    viewer.open(str(path), plugin="napari-histoad")  # as dropping does, without napari's question which reader is meant


def reviewed(panel):
    return panel["review"].isEnabled() and "p ≤" in panel["review"].rate_info.text()


def test_dropped_map_opens_its_slide_and_is_reviewed_at_the_saved_threshold(viewer, panel, words, qtbot, case):
    slide, folder = case
    drop(viewer, folder)
    qtbot.waitUntil(lambda: reviewed(panel))
    assert panel.controller.chosen.slide.path == slide
    assert panel["slide"].slide_box.value.name == "sample"
    assert panel["review"].rate() == 0.02
    assert panel.controller.maps.map.path == folder
    (labels,) = labels_of(viewer)
    assert labels.contour == 1
    assert np.array_equal(labels.data > 0, AnomalyMap.open(folder).flag(0.02) > 0)
    assert panel["review"].region_list.count() == len(measure_regions(AnomalyMap.open(folder), 0.02))
    names = [y.name for y in viewer.layers]
    assert len(names) == len(set(names)) == 5
    assert not panel["slide"].find_button.native.isVisibleTo(panel)
    assert panel["map"].reopen_button.native.isHidden()
    shot(viewer, "dropped map")


def test_dropped_map_is_reviewed_when_the_panel_opens_later(viewer, qtbot, case, told):
    slide, folder = case
    viewer.open(str(slide), plugin="napari-histoad")
    drop(viewer, folder)
    assert len(viewer.layers) == 5
    assert [y.contour for y in labels_of(viewer)] == [1]
    assert any("Anomaly mapping" in words for words in told)
    _, panel = viewer.window.add_plugin_dock_widget("napari-histoad", "Anomaly mapping")
    qtbot.waitUntil(lambda: reviewed(panel))
    assert panel["review"].rate() == 0.02
    panel.controller.close()


def test_dropped_map_asks_for_its_moved_slide_and_refuses_another(
    viewer, panel, words, qtbot, case, tmp_path, write_tiff, monkeypatch
):
    slide, folder = case
    moved = slide.rename(tmp_path / "moved.tif")
    drop(viewer, folder)
    qtbot.waitUntil(lambda: panel["slide"].find_button.native.isVisibleTo(panel))
    assert "sample.tif" in panel["slide"].message.text()
    assert "Find the slide" in panel["slide"].message.text()
    assert not panel["review"].isEnabled()
    chosen = write_tiff(np.full((500, 400, 3), 200, np.uint8), mpp=0.5)
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(chosen), ""))
    panel["slide"].find_button.native.click()
    assert "is not the slide" in panel["slide"].message.text()
    assert panel["slide"].find_button.native.isVisibleTo(panel)
    assert panel["slide"].slide_box.value is None
    chosen = moved
    panel["slide"].find_button.native.click()
    qtbot.waitUntil(lambda: reviewed(panel))
    assert panel.controller.chosen.slide.path == moved
    assert not panel["slide"].find_button.native.isVisibleTo(panel)
    assert panel["slide"].message.text() == ""


def test_dropped_map_refuses_another_slide_at_the_same_path(viewer, panel, words, qtbot, case, tmp_path, write_tiff):
    slide, folder = case
    moved = slide.rename(tmp_path / "moved.tif")
    shutil.copyfile(write_tiff(np.full((500, 400, 3), 200, np.uint8), mpp=0.5), slide)
    drop(viewer, folder)
    qtbot.waitUntil(lambda: "is not the slide" in panel["slide"].message.text())
    assert not panel["review"].isEnabled()
    assert panel["slide"].slide_box.value is None
    drop(viewer, moved)
    qtbot.waitUntil(lambda: reviewed(panel))
    assert panel["review"].rate() == 0.02


def test_dropped_map_sets_the_resolution_of_its_slide(viewer, panel, words, qtbot, write_tiff, sample, detector_file, tmp_path):
    with open_slide(sample.path) as slide:
        pixels = slide.read(0, 0, 0, 1400, 1200)
    path = write_tiff(pixels, mpp=None)
    made = map_slide(path, tmp_path / "maps", model=detector_file, stride_px=64, device="cpu", slide_mpp=0.5)
    drop(viewer, made.path)
    qtbot.waitUntil(lambda: reviewed(panel))
    assert panel.controller.chosen.slide.mpp == 0.5
    assert tuple(panel["slide"].slide_box.value.scale) == (0.5, 0.5)


def test_map_section_offers_and_opens_the_finished_map(viewer, panel, words, qtbot, case):
    slide, folder = case
    shutil.copytree(folder, slide.parent / "anomaly-maps" / "sample.ome.zarr")
    drop(viewer, slide)
    assert panel["map"].reopen_button.native.isVisibleTo(panel)
    assert "finished map" in panel["map"].found_info.text()
    assert not panel["review"].isEnabled()
    panel["map"].reopen_button.native.click()
    qtbot.waitUntil(lambda: reviewed(panel))
    assert panel["review"].rate() == 0.02
    assert len(labels_of(viewer)) == 1
    assert panel["map"].reopen_button.native.isHidden()
    assert panel["map"].found_info.text() == ""


def test_map_section_refuses_the_map_of_another_slide_of_the_same_name(viewer, panel, words, qtbot, case):
    slide, folder = case
    shutil.copytree(folder, slide.parent / "anomaly-maps" / "sample.ome.zarr")
    with open_slide(slide) as opened:
        pixels = 255 - opened.read(0, 0, 0, *opened.shape)
    tifffile.imwrite(slide, pixels, tile=(256, 256), photometric="rgb", resolution=(20_000, 20_000), resolutionunit="CENTIMETER")
    drop(viewer, slide)
    assert panel["map"].reopen_button.native.isVisibleTo(panel)
    panel["map"].reopen_button.native.click()
    assert "is not the slide" in panel["map"].message.text()
    assert not panel["review"].isEnabled()
    assert panel["map"].reopen_button.native.isHidden()


def unfinish(folder):
    described = folder / "zarr.json"
    content = json.loads(described.read_text())
    for known in content["attributes"].values():
        if "complete" in known:
            known["complete"] = False
    described.write_text(json.dumps(content))


def test_map_section_says_how_to_continue_an_unfinished_map(viewer, panel, words, qtbot, case):
    slide, folder = case
    among = shutil.copytree(folder, slide.parent / "anomaly-maps" / "sample.ome.zarr")
    for one in (folder, among):
        unfinish(one)
    drop(viewer, folder)
    qtbot.waitUntil(lambda: "not finished" in panel["map"].message.text())
    assert panel.controller.chosen.slide.path == slide
    assert "move it to" in panel["map"].message.text()
    assert "continues it" in panel["map"].found_info.text()
    assert panel["map"].reopen_button.native.isHidden()
    assert not panel["review"].isEnabled()


def test_dropped_map_waits_for_the_running_job(viewer, panel, words, qtbot, case, monkeypatch):
    slide, folder = case
    drop(viewer, slide)
    monkeypatch.setattr(JobRunner, "busy", True)
    panel.controller.runner.busy_changed.emit(True)
    drop(viewer, folder)
    qtbot.waitUntil(lambda: "after the end of the run" in panel["review"].message.text())
    assert panel.controller.maps.map is None
    monkeypatch.setattr(JobRunner, "busy", False)
    panel.controller.runner.busy_changed.emit(False)
    qtbot.waitUntil(lambda: reviewed(panel))
    assert panel["review"].message.text() == ""


def test_dropped_maps_are_reviewed_each_on_its_slide(
    viewer, panel, words, qtbot, case, detector_file, sample, write_tiff, tmp_path
):
    slide, folder = case
    with open_slide(sample.path) as opened:
        other = write_tiff(opened.read(0, 0, 0, 1400, 1200), mpp=0.5)
    made = map_slide(other, tmp_path / "maps", model=detector_file, stride_px=64, device="cpu")
    viewer.open([str(folder), str(made.path)], plugin="napari-histoad")
    qtbot.waitUntil(lambda: reviewed(panel) and panel.controller.maps.map.path == made.path)
    assert panel.controller.chosen.slide.path == other
    shown = {y.metadata[MAP_KEY] for y in viewer.layers if MAP_KEY in y.metadata and y.visible}
    assert shown == {str(made.path)}
    shot(viewer, "two dropped maps")
    panel["slide"].slide_box.value = next(y for y in viewer.layers if y.name == "sample")
    qtbot.waitUntil(lambda: reviewed(panel) and panel.controller.maps.map.path == folder)
    assert panel.controller.chosen.slide.path == slide
    assert panel["review"].rate() == 0.02
