"""The real panel in a real window, from the sample slide to the finished, reviewed and saved map."""

import shutil

import numpy as np
import psutil
import pytest
import safetensors.torch
import torch
from napari.layers import Labels, Shapes
from qtpy.QtWidgets import QMessageBox
from screenshots import shot
from shapely import Point

from napari_histoad import AnomalyMap
from napari_histoad.detectors import describe_detectors, load_detector
from napari_histoad.detectors._encoders import import_timm
from napari_histoad.gui import reader
from napari_histoad.gui.layers import Heatmap
from napari_histoad.gui.sections.detector import _DEFAULT
from napari_histoad.gui.sections.review import BY_DISCOVERIES
from napari_histoad.gui.slide_layers import slide_layer
from napari_histoad.maps import MapGeometry
from napari_histoad.slide import open_slide
from napari_histoad.tiles import TileGrid


def test_from_the_sample_to_the_saved_map(viewer, panel, words, qtbot):
    assert not panel["map"].map_button.enabled
    viewer.open_sample("napari-histoad", "planted")
    assert panel["slide"].slide_box.value is viewer.layers["sample"]
    assert "0.5 µm per pixel" in panel["slide"].info.text()
    assert len(panel.context.outlines.regions()) >= 3
    panel["tissue"].button.native.click()
    qtbot.waitUntil(lambda: "mm²" in panel["tissue"].info.text(), timeout=60_000)
    panel["detector"].steps_box.value = 60
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(panel.progress.isVisible, timeout=60_000)
    assert not panel["map"].map_button.enabled
    qtbot.waitUntil(panel["detector"].preview.isVisible, timeout=60_000)
    shot(viewer, "training")
    qtbot.waitUntil(lambda: "Ready" in panel["detector"].info.text() or bool(words), timeout=120_000)
    assert words == []
    assert panel["map"].model_box.value == "sample.vqvae.safetensors"
    panel["map"].map_button.native.click()
    qtbot.waitUntil(lambda: panel["review"].isEnabled() or bool(words), timeout=120_000)
    assert words == []
    heat = viewer.layers["Anomaly map of sample.tif"]
    assert np.ptp(heat.data) > 0
    qtbot.waitUntil(lambda: "Flagged regions of sample.tif" in viewer.layers, timeout=60_000)
    assert isinstance(viewer.layers["Flagged regions of sample.tif"], Labels)
    flagged = []
    for position in (0, 500, 1000):
        panel["review"].rate_slider.setValue(position)
        qtbot.waitUntil(lambda: f"{panel['review'].rate():.3g})" in panel["review"].rate_info.text(), timeout=60_000)
        flagged.append(int((viewer.layers["Flagged regions of sample.tif"].data > 0).sum()))
    assert flagged == sorted(flagged)
    assert flagged[-1] > 0
    panel["review"].region_list.setCurrentRow(0)
    assert viewer.scene.camera.zoom > 0
    viewer.reset_view()
    shot(viewer, "finished")
    panel["save"].save_button.native.click()
    qtbot.waitUntil(lambda: bool(words), timeout=60_000)
    assert "Saved in" in words[-1]
    assert {p.suffix for p in panel.controller.chosen.out.iterdir()} >= {".geojson", ".png", ".html", ".zarr"}


def test_texture_with_suspicious_tiles_left_out_and_by_discoveries(viewer, panel, words, qtbot, choose_method):
    viewer.open_sample("napari-histoad", "planted")
    choose_method("texture")
    assert not panel["detector"].steps_box.enabled
    panel["detector"].recalibrate_button.native.click()
    assert "no trained detector is chosen" in words.pop()
    panel["detector"].refine_box.value = True
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: "suspicious tiles were left out" in panel["detector"].info.text() or bool(words), timeout=120_000)
    assert words == []
    suspicious = viewer.layers["Suspicious tiles"]
    assert f"{len(suspicious.data)} suspicious" in panel["detector"].info.text()
    outlines = [region.geometry for region in panel.context.outlines.regions()]
    for square in suspicious.data:
        middle = viewer.layers["sample"].world_to_data(suspicious.data_to_world(square.mean(axis=0)))
        assert any(outline.distance(Point(*middle)) < 128 for outline in outlines)
    shot(viewer, "suspicious")
    panel["detector"].recalibrate_button.native.click()
    qtbot.waitUntil(lambda: bool(words), timeout=120_000)
    assert "was trained on sample.tif" in words.pop()
    panel["map"].map_button.native.click()
    qtbot.waitUntil(lambda: "regions" in panel["review"].rate_info.text() or bool(words), timeout=120_000)
    assert words == []
    by_rate = panel["review"].rate()
    panel["review"].rate_kind.value = BY_DISCOVERIES
    qtbot.waitUntil(lambda: "expected to be normal" in panel["review"].rate_info.text(), timeout=60_000)
    assert panel["review"].rate() != by_rate
    shot(viewer, "discoveries")


def test_detector_section_offers_the_default_at_once_and_every_detector_soon(panel, qtbot):
    section = panel["detector"]
    assert section.method_box.value == "vqvae"
    qtbot.waitUntil(lambda: len(section.method_box.choices) > 1)
    known = {each.name: each.model_dump() for each in describe_detectors()}
    assert set(section.method_box.choices) == set(known)
    assert section.method_box.value == "vqvae"
    assert {key: known["vqvae"][key] for key in _DEFAULT} == _DEFAULT


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, and none of its files: what the background process inherits."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def test_an_encoder_of_others_is_asked_for_and_taken_from_its_file(
    offline, viewer, panel, words, qtbot, tmp_path, monkeypatch, choose_method
):
    name, asked = "test_vit.r160_in1k", []
    viewer.open_sample("napari-histoad", "planted")
    assert not panel["detector"].encoder_box.isVisible()
    choose_method("embedding")
    assert panel["detector"].encoder_box.isVisible()
    assert not panel["detector"].weights_file.native.isVisible()
    panel["detector"].encoder_box.setCurrentText("own")
    assert panel["detector"].steps_box.enabled
    panel["detector"].encoder_box.setCurrentText(name)
    assert panel["detector"].weights_file.native.isVisible()
    assert not panel["detector"].steps_box.enabled
    monkeypatch.setattr(QMessageBox, "question", lambda *args: asked.append(args[2]) or QMessageBox.StandardButton.No)
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: "was not downloaded" in panel["detector"].info.text() or bool(words), timeout=60_000)
    assert words == []
    assert name in asked[0]
    assert "apache-2.0" in asked[0]
    monkeypatch.setattr(QMessageBox, "question", lambda *args: QMessageBox.StandardButton.Yes)
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: bool(words), timeout=60_000)
    assert "cannot be downloaded" in words[-1]
    assert "choose the file of its weights in step 4" in words.pop()
    torch.manual_seed(0)
    safetensors.torch.save_file(import_timm().create_model(name).state_dict(), tmp_path / "vit.safetensors")
    panel["detector"].weights_file.value = tmp_path / "vit.safetensors"
    shot(viewer, "encoder")
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(lambda: "Ready" in panel["detector"].info.text() or bool(words), timeout=120_000)
    assert words == []
    assert load_detector(panel.controller.training.model).backbone.name == name


def test_first_click_without_training_and_cancel(viewer, panel, words, qtbot):
    viewer.open_sample("napari-histoad", "planted")
    panel["map"].map_button.native.click()
    qtbot.waitUntil(panel.progress.isVisible, timeout=60_000)
    panel.progress.cancel_button.native.click()
    qtbot.waitUntil(lambda: not panel.progress.isVisible(), timeout=60_000)
    assert "Cancelled" in words[-1]
    panel["map"].map_button.native.click()
    qtbot.waitUntil(panel["review"].isEnabled, timeout=120_000)
    assert "on the mapped slide itself" in panel.controller.maps.map.info.calibration_note


def test_a_map_that_is_deleted_while_it_grows_is_told_and_can_be_made_again(viewer, panel, words, qtbot):
    viewer.open_sample("napari-histoad", "planted")
    with qtbot.waitSignal(panel.controller.maps.updated, timeout=120_000):
        panel["map"].map_button.native.click()
    shutil.rmtree(panel.controller.maps.map.path, ignore_errors=True)  # what is written meanwhile is left, and in the way
    qtbot.waitUntil(lambda: any("put" in word for word in words), timeout=60_000)
    assert "was deleted or moved" in words[-1] or "does not exist any more" in words[-1]
    panel["map"].map_button.native.click()
    qtbot.waitUntil(panel["review"].isEnabled, timeout=120_000)


def test_the_background_process_ends_with_the_panel(viewer, panel, qtbot):
    pid = panel.controller.runner.client.pid
    assert psutil.pid_exists(pid)
    viewer.window.remove_dock_widget("all")
    panel.deleteLater()
    qtbot.waitUntil(lambda: not psutil.pid_exists(pid), timeout=10_000)
    viewer.add_image(np.zeros((5, 5)))  # nobody listens any more


def test_errors_are_notifications(viewer, panel, words, qtbot, tmp_path, write_tiff):
    (tmp_path / "bad.svs").write_text("nothing")
    viewer.open(str(tmp_path / "bad.svs"), plugin="napari-histoad")
    assert "not a slide" in words[-1]
    viewer.open(str(write_tiff(np.full((700, 700, 3), 240, np.uint8), "blank.tif", mpp=None)), plugin="napari-histoad")
    assert panel["slide"].mpp_row.isVisible()
    assert not panel["map"].map_button.enabled
    assert "µm per pixel in step 1" in panel["map"].reason_info.text()
    panel["slide"].mpp_row.box.value = 0.5
    panel["slide"].mpp_row.button.native.click()
    assert "0.5 µm per pixel" in panel["slide"].info.text()
    panel["detector"].train_button.native.click()
    assert "no normal tissue is outlined" in words[-1]
    panel["map"].map_button.native.click()
    qtbot.waitUntil(lambda: "no tissue was found" in words[-1], timeout=60_000)
    assert panel["map"].map_button.enabled


def test_outlining_starts_a_layer_in_micrometres(viewer, panel, words, sample):
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel["normal"].outline_button.native.click()
    layer = viewer.layers["Normal tissue"]
    assert isinstance(layer, Shapes)
    assert layer.mode == "add_polygon_lasso"
    layer.add_rectangles(np.array([[100, 200], [100, 400], [300, 400], [300, 200]]))
    assert panel.context.outlines.regions()[0].geometry.bounds == (100.5, 200.5, 300.5, 400.5)


def test_outlines_drawn_in_another_scale_land_in_the_right_place(viewer, panel, words, sample):
    viewer.open(str(sample.path), plugin="napari-histoad")
    layer = Shapes(name="Normal tissue", ndim=2, scale=(1, 1), units=("um", "um"))
    viewer.add_layer(layer)
    layer.add_rectangles(np.array([[50, 100], [50, 200], [150, 200], [150, 100]]))
    assert panel.context.outlines.regions()[0].geometry.bounds == pytest.approx((100.5, 200.5, 300.5, 400.5))


def test_outlines_belong_to_the_slide_that_they_were_drawn_on(viewer, panel, words, sample, tmp_path):
    other = tmp_path / "other.tif"
    other.write_bytes(sample.path.read_bytes())
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel["normal"].outline_button.native.click()
    first = viewer.layers["Normal tissue"]
    box = np.array([[100, 200], [100, 400], [300, 400], [300, 200]])
    first.add_rectangles(box)
    viewer.open(str(other), plugin="napari-histoad")
    panel["slide"].slide_box.value = viewer.layers["other"]
    assert panel.context.outlines.regions() == []
    assert not first.visible
    panel["detector"].train_button.native.click()
    assert "no normal tissue is outlined" in words.pop()
    panel["normal"].outline_button.native.click()
    second = viewer.layers.selection.active
    assert second is not first
    second.add_rectangles(box / 2)
    assert [region.geometry.bounds for region in panel.context.outlines.regions()] == [(50.5, 100.5, 150.5, 200.5)]
    viewer.layers.remove("sample")
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel["slide"].slide_box.value = viewer.layers["sample"]
    assert (first.visible, second.visible) == (True, False)
    assert [region.geometry.bounds for region in panel.context.outlines.regions()] == [(100.5, 200.5, 300.5, 400.5)]


def test_maps_and_slides_open_by_dropping_them(viewer, sample, map_folder):
    viewer.open([str(sample.path)], plugin="napari-histoad")
    viewer.open(str(map_folder), plugin="napari-histoad")
    assert [y.name for y in viewer.layers] == [
        "sample", "Error map of sample.tif", "Anomaly map of sample.tif", "Flagged regions of sample.tif",
    ]  # fmt: skip
    assert reader.get_reader(str(map_folder.parent)) is None
    assert reader.get_reader("picture.png") is None


@pytest.mark.parametrize(("shape", "downsample"), [((2048, 2048), 1), ((1999, 1501), 4.0099), ((6401, 6401), 64.0099)])
def test_corners_of_heatmap_and_slide_coincide(viewer, shape, downsample, write_tiff, tmp_path):
    image = np.full((*shape, 3), 200, np.uint8)
    with open_slide(write_tiff(image, tile=(256, 256), levels=2, compression="zlib")) as slide:
        grid = TileGrid.cover(shape, slide.mpp, tile_px=32, mpp=slide.mpp * downsample, stride_px=16)
        geometry = MapGeometry.of(grid, shape, 4 * slide.mpp * downsample)
        data, looks, _ = slide_layer(slide)
        picture = viewer.add_image(data, **looks)
        heat = viewer.add_image(
            np.zeros(geometry.shape, np.float32),
            scale=(geometry.scale(0) * slide.mpp,) * 2,
            translate=(geometry.translate(0) * slide.mpp,) * 2,
            units=("um", "um"),
        )
        half_um = 0.5 * slide.mpp
        # The first corner of both, half a pixel before their pixel 0, and the corner of a tile far inside.
        assert np.allclose(picture.data_to_world((-0.5, -0.5)), heat.data_to_world((-0.5, -0.5)), atol=half_um)
        origin = grid.origins[len(grid) // 2]
        cell = geometry.tile_cells(origin[None])[0]
        assert np.allclose(picture.data_to_world(origin - 0.5), heat.data_to_world(cell - 0.5), atol=half_um)


def test_the_edge_of_a_heatmap_is_seen_where_the_edge_of_the_slide_is(viewer, write_tiff, map_folder, sample):
    """On the screen: the bounding box of what the heatmap covers lies within that of the slide."""
    result = AnomalyMap.open(map_folder)
    with open_slide(sample.path) as slide:
        data, looks, _ = slide_layer(slide)
        picture = viewer.add_image(data, **looks)
        values, looks, _ = Heatmap(result).layer()
        heat = viewer.add_image(np.ones_like(values), **{**looks, "colormap": "green", "contrast_limits": (0, 1), "opacity": 1})
        viewer.reset_view()
        box = []
        for layer in (picture, heat):
            picture.visible, heat.visible = layer is picture, layer is heat
            shot = viewer.screenshot(flash=False)[..., :3].max(axis=2) > 60
            rows, columns = np.flatnonzero(shot.any(1)), np.flatnonzero(shot.any(0))
            box.append((rows[0], columns[0], rows[-1], columns[-1]))
        # A cell is 16 level-0 pixels and the slide a whole number of cells; one screen pixel is about 2.3.
        assert np.abs(np.subtract(*box)).max() <= 1


def test_reading_the_map_again_gives_the_same_picture(map_folder):
    result = AnomalyMap.open(map_folder)
    heat = Heatmap(result)
    before = heat.values.copy()
    heat.update((3, 5, 40, 60))
    assert np.array_equal(before, heat.values)
