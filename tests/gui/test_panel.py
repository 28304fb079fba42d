"""The real panel in a real window, from the sample slide to the finished, reviewed and saved map."""

import numpy as np
import psutil
import pytest
from napari.layers import Labels, Shapes
from screenshots import shot

from napari_histoad import AnomalyMap
from napari_histoad.gui import reader
from napari_histoad.gui.layer_data import Heatmap, artefact_layers
from napari_histoad.gui.slide_layers import slide_layer
from napari_histoad.maps import MapGeometry
from napari_histoad.slide import open_slide
from napari_histoad.tiles import ARTEFACT_KINDS, ArtefactMask, TileGrid


def test_panel_leads_from_the_sample_to_the_saved_map(viewer, panel, words, qtbot):
    assert not panel["map"].map_button.enabled
    viewer.open_sample("napari-histoad", "planted")
    assert panel["slide"].slide_box.value is viewer.layers["sample"]
    assert "0.5 µm per pixel" in panel["slide"].info.text()
    assert len(panel.context.outlines.regions()) >= 3
    panel["tissue"].button.native.click()
    qtbot.waitUntil(lambda: "mm²" in panel["tissue"].info.text())
    panel["detector"].steps_box.value = 60
    panel["detector"].train_button.native.click()
    qtbot.waitUntil(panel.progress.isVisible)
    assert not panel["map"].map_button.enabled
    qtbot.waitUntil(panel["detector"].preview.isVisible)
    shot(viewer, "training")
    qtbot.waitUntil(lambda: "Ready" in panel["detector"].info.text() or bool(words))
    assert words == []
    assert panel["map"].model_box.value == "sample.combined.safetensors"
    panel["map"].map_button.native.click()
    qtbot.waitUntil(lambda: panel["review"].isEnabled() or bool(words))
    assert words == []
    heat = viewer.layers["Anomaly map of sample.tif"]
    assert np.ptp(heat.data) > 0
    qtbot.waitUntil(lambda: "Flagged regions of sample.tif" in viewer.layers)
    assert isinstance(viewer.layers["Flagged regions of sample.tif"], Labels)
    flagged = []
    for position in (0, 500, 1000):
        panel["review"].rate_slider.setValue(position)
        qtbot.waitUntil(lambda: f"{panel['review'].rate():.3g})" in panel["review"].rate_info.text())
        flagged.append(int((viewer.layers["Flagged regions of sample.tif"].data > 0).sum()))
    assert flagged == sorted(flagged)
    assert flagged[-1] > 0
    panel["review"].region_list.setCurrentRow(0)
    assert viewer.scene.camera.zoom > 0
    viewer.reset_view()
    shot(viewer, "finished")
    panel["save"].save_button.native.click()
    qtbot.waitUntil(lambda: bool(words))
    assert "Saved in" in words[-1]
    assert {p.suffix for p in panel.controller.chosen.out.iterdir()} >= {".geojson", ".png", ".html", ".zarr"}


def test_panel_ends_the_background_process_when_it_is_closed(viewer, panel, qtbot):
    pid = panel.controller.runner.client.pid
    assert psutil.pid_exists(pid)
    viewer.window.remove_dock_widget("all")
    panel.deleteLater()
    qtbot.waitUntil(lambda: not psutil.pid_exists(pid))
    viewer.add_image(np.zeros((5, 5)))  # nobody listens any more


def test_panel_shows_errors_and_remedies_of_each_step(viewer, panel, words, qtbot, tmp_path, write_tiff):
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
    qtbot.waitUntil(lambda: "no tissue was found" in words[-1])
    assert panel["map"].map_button.enabled


def test_outlines_layer_is_in_micrometres(viewer, panel, words, sample):
    viewer.open(str(sample.path), plugin="napari-histoad")
    panel["normal"].outline_button.native.click()
    layer = viewer.layers["Normal tissue"]
    assert isinstance(layer, Shapes)
    assert layer.mode == "add_polygon_lasso"
    layer.add_rectangles(np.array([[100, 200], [100, 400], [300, 400], [300, 200]]))
    assert panel.context.outlines.regions()[0].geometry.bounds == (100.5, 200.5, 300.5, 400.5)


def test_outlines_drawn_in_another_scale_are_converted(viewer, panel, words, sample):
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


def test_reader_opens_maps_and_slides(viewer, sample, map_folder):
    viewer.open([str(sample.path)], plugin="napari-histoad")
    viewer.open(str(map_folder), plugin="napari-histoad")
    assert [y.name for y in viewer.layers] == [
        "sample", "Error map of sample.tif", "Artefacts of sample.tif",
        "Anomaly map of sample.tif", "Flagged regions of sample.tif",
    ]  # fmt: skip
    assert reader.get_reader(str(map_folder.parent)) is None
    assert reader.get_reader("picture.png") is None


def test_layer_of_artefacts_is_hidden_without_any_and_names_the_kind_under_the_cursor(viewer, map_folder):
    source = AnomalyMap.open(map_folder)
    probabilities = np.zeros((16, 16, len(ARTEFACT_KINDS)), np.float32)
    for pen in (0, 1):
        probabilities[3, 5, ARTEFACT_KINDS.index("pen")] = pen
        source.artefacts = ArtefactMask(probabilities, (128.0, 128.0))
        ((data, looks, kind),) = artefact_layers(source)
        assert kind == "labels"
        assert looks["visible"] == bool(pen)
    layer = viewer.add_labels(data, **looks)
    centre = tuple((128 * (k + 0.5) - 0.5) * source.info.slide_mpp for k in (3, 5))
    assert layer.get_value(centre, world=True) == 1 + ARTEFACT_KINDS.index("pen")
    assert "pen" in layer.get_status(centre, world=True)["value"]


@pytest.mark.parametrize(("shape", "downsample"), [((2048, 2048), 1), ((1999, 1501), 4.0099), ((6401, 6401), 64.0099)])
def test_heatmap_corners_coincide_with_the_slide(viewer, shape, downsample, write_tiff, tmp_path):
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


def test_heatmap_edge_is_drawn_at_the_edge_of_the_slide(viewer, write_tiff, map_folder, sample):
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


def test_heatmap_update_gives_the_same_values(map_folder):
    result = AnomalyMap.open(map_folder)
    heat = Heatmap(result)
    before = heat.values.copy()
    heat.update((3, 5, 40, 60))
    assert np.array_equal(before, heat.values)
