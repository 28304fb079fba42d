"""Outlines of normal tissue: nothing that was drawn is lost."""

import json

import numpy as np
import pytest
from napari.layers import Shapes

from napari_histoad.gui.autosave import read_outlines, write_outlines
from napari_histoad.gui.output_paths import free_name, free_names, output_folder
from napari_histoad.gui.shapes_undo import ShapesHistory
from napari_histoad.regions import regions_from_shapes
from napari_histoad.slide import open_slide

BOX = np.array([[100.0, 200], [100, 400], [300, 400], [300, 200]])
OPEN_RING = np.array([[0.0, 0], [0, 90], [90, 90], [90, 0], [0, 0], [20, 20], [40, 20], [40, 40], [20, 40], [20, 20]])


def test_history_undoes_and_redoes_all_kinds_of_changes():
    layer = Shapes(ndim=2)
    history = ShapesHistory(layer)
    layer.add_rectangles(BOX)
    layer.add_ellipses(BOX / 2, edge_color="red")
    layer.add_polygons(OPEN_RING)
    layer.selected_data = {1}
    layer.remove_selected()
    assert layer.shape_type == ["rectangle", "polygon"]
    history.undo()
    assert layer.shape_type == ["rectangle", "ellipse", "polygon"]
    assert np.allclose(layer.edge_color[1], (1, 0, 0, 1))
    assert np.allclose(layer.data[2], OPEN_RING)
    layer.data = [layer.data[0] + 5, *layer.data[1:]]
    assert np.allclose(layer.data[0], BOX + 5)
    history.undo()
    assert np.allclose(layer.data[0], BOX)
    history.redo()
    assert np.allclose(layer.data[0], BOX + 5)
    for _ in range(9):
        history.undo()
    assert layer.nshapes == 0
    for _ in range(9):
        history.redo()
    assert layer.nshapes == 3
    history.undo()
    layer.add_rectangles(BOX * 2)
    history.redo()  # there is nothing after a new change
    assert np.allclose(layer.data[-1], BOX * 2)


def test_history_binds_keys_of_its_layer_only():
    layer, other = Shapes(ndim=2), Shapes(ndim=2)
    ShapesHistory(layer)
    assert len(layer.keymap) == 2
    assert len(other.keymap) == 0


def test_read_outlines_restores_shape_types(tmp_path):
    turned = np.array([[0.0, 50], [50, 100], [100, 50], [50, 0]])
    data, kinds = [BOX, turned, OPEN_RING], ["rectangle", "ellipse", "polygon"]
    file = tmp_path / "new" / "case.normal.geojson"
    write_outlines(file, "case.tif", regions_from_shapes(data, kinds), kinds)
    assert [p.name for p in file.parent.iterdir()] == ["case.normal.geojson"]
    again, types = read_outlines(file)
    assert types == kinds
    for before, after, kind in zip(data, again, kinds, strict=True):
        (one,), (other,) = regions_from_shapes([before], [kind]), regions_from_shapes([after], [kind])
        assert one.geometry.symmetric_difference(other.geometry).area < 1e-6 * one.geometry.area
    assert len(regions_from_shapes([again[2]], ["polygon"])[0].geometry.interiors) == 1


def test_free_names_overwrite_no_file(tmp_path):
    first = tmp_path / "skin.vqvae.safetensors"
    assert free_name(first) == first
    first.touch()
    assert free_name(first).name == "skin.vqvae-2.safetensors"
    (tmp_path / "skin.vqvae-2.safetensors").touch()
    assert free_name(first).name == "skin.vqvae-3.safetensors"
    report = tmp_path / "skin.report.html"
    assert [p.name for p in free_names([first, report])] == ["skin.vqvae-3.safetensors", "skin.report-3.html"]


def test_output_folder_separates_slides_of_the_same_name(tmp_path, sample):
    paths = [tmp_path / name for name in ("skin.tif", "skin.svs", "other.tif")]
    for path in paths:
        path.write_bytes(sample.path.read_bytes())
    (tmp_path / "skin.txt").touch()
    folders = [output_folder(open_slide(path)) for path in paths]
    assert [str(p.relative_to(tmp_path)) for p in folders] == ["anomaly-maps/skin.tif", "anomaly-maps/skin.svs", "anomaly-maps"]


@pytest.fixture
def case(tmp_path, sample):
    path = tmp_path / "case" / "case.tif"
    path.parent.mkdir()
    path.write_bytes(sample.path.read_bytes())
    return path


def saved(panel, name="case.normal.geojson"):
    file = panel.controller.chosen.out / name
    return len(json.loads(file.read_text())["features"]) if file.exists() else 0


def test_autosave_restores_outlines_in_the_next_session(viewer, panel, words, case, qtbot):
    (slide_layer,) = viewer.open(str(case), plugin="napari-histoad")
    panel["normal"].outline_button.native.click()
    layer = viewer.layers.selection.active
    layer.add_rectangles(BOX)
    layer.add_ellipses(BOX + 500)
    qtbot.waitUntil(lambda: saved(panel) == 2)
    bounds = [region.geometry.bounds for region in panel.context.outlines.regions()]
    layer.selected_data = {0}
    layer.remove_selected()
    qtbot.waitUntil(lambda: saved(panel) == 1)
    panel.context.outlines._histories[layer].undo()
    qtbot.waitUntil(lambda: saved(panel) == 2)
    for name in (layer, slide_layer):
        viewer.layers.remove(name)
    viewer.open(str(case), plugin="napari-histoad")
    assert np.allclose([region.geometry.bounds for region in panel.context.outlines.regions()], bounds)
    (again,) = panel.context.outlines.layers()
    assert again.shape_type == ["rectangle", "ellipse"]
    assert "2 outlines" in panel["normal"].info.text()
    panel.context.outlines._histories[again].undo()
    assert again.nshapes == 2  # what was restored is where the history begins


def test_autosave_keeps_a_file_that_was_changed_elsewhere(viewer, panel, words, case, qtbot):
    viewer.open(str(case), plugin="napari-histoad")
    panel["normal"].outline_button.native.click()
    layer = viewer.layers.selection.active
    layer.add_rectangles([BOX, BOX + 500])
    qtbot.waitUntil(lambda: saved(panel) == 2)
    viewer.layers.remove(layer)
    panel["normal"].outline_button.native.click()
    viewer.layers.selection.active.add_rectangles(BOX)
    qtbot.waitUntil(lambda: saved(panel) == 1)
    assert saved(panel, "case.normal-2.geojson") == 2


def test_autosave_warns_once_if_outlines_cannot_be_saved(viewer, panel, words, case, qtbot, monkeypatch):
    viewer.open(str(case), plugin="napari-histoad")
    panel["normal"].outline_button.native.click()
    layer = viewer.layers.selection.active
    monkeypatch.setattr("napari_histoad.gui.autosave.write_geojson", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    layer.add_rectangles(BOX)
    qtbot.waitUntil(lambda: any("cannot be saved" in word for word in words))
    monkeypatch.undo()


def test_autosave_leaves_out_shapes_without_an_area(viewer, panel, words, case, qtbot):
    viewer.open(str(case), plugin="napari-histoad")
    panel["normal"].outline_button.native.click()
    layer = viewer.layers.selection.active
    layer.add_polygons(np.array([[0.0, 0], [50, 50], [100, 100]]))  # no area
    layer.add_rectangles(BOX)
    qtbot.waitUntil(lambda: saved(panel) == 1)


def test_outlines_stay_on_their_pixels_when_the_resolution_is_set(viewer, panel, words, write_tiff):
    viewer.open(str(write_tiff(np.full((600, 600, 3), 200, np.uint8), mpp=None)), plugin="napari-histoad")
    panel["normal"].outline_button.native.click()
    viewer.layers.selection.active.add_rectangles(BOX)
    panel["slide"].mpp_row.box.value = 0.5
    panel["slide"].mpp_row.button.native.click()
    assert [region.geometry.bounds for region in panel.context.outlines.regions()] == [(100.5, 200.5, 300.5, 400.5)]
