"""Annotations in and out of a real window: File > Open, a file that is dropped, File > Save."""

import gzip
import json

import numpy as np
import pytest
from napari.layers import Shapes
from qtpy.QtWidgets import QFileDialog
from shapely.geometry import box

from napari_histoad import read_regions, write_geojson
from napari_histoad.gui import annotation_layers
from napari_histoad.gui.annotation_layers import write_shapes
from napari_histoad.gui.layer_data import NORMAL_NAME
from napari_histoad.gui.reader import get_reader
from napari_histoad.regions import Region

RING = box(100, 200, 400, 600).difference(box(200, 300, 250, 350))
REGIONS = [Region(box(10, 20, 60, 90), "Normal"), Region(RING, "Tumor"), Region(box(700, 700, 900, 900), "Tumor: Necrosis")]


@pytest.fixture
def told(monkeypatch):
    said = []
    monkeypatch.setattr(annotation_layers, "show_info", said.append)
    monkeypatch.setattr(annotation_layers, "show_warning", said.append)
    return said


@pytest.fixture
def slide(write_tiff):
    return write_tiff(np.full((1000, 1200, 3), 230, np.uint8), mpp=0.25)


def test_reader_adds_dropped_outlines_to_the_slide_in_view(panel, viewer, slide, tmp_path, told):
    write_geojson(REGIONS, tmp_path / "case.geojson")
    viewer.open(str(slide), plugin="napari-histoad")
    viewer.window._qt_viewer._qt_open([str(tmp_path / "case.geojson")], stack=False)
    layer = viewer.layers["Annotations of case"]
    assert list(layer.features["class"]) == ["Tumor", "Tumor: Necrosis"]
    assert len({tuple(colour) for colour in layer.edge_color}) == 2
    assert layer.scale == pytest.approx((0.25, 0.25))
    assert layer.extent.world[1] == pytest.approx((899.5 * 0.25, 899.5 * 0.25))
    assert [region.geometry.bounds for region in panel.context.outlines.regions()] == [(10, 20, 60, 90)]
    assert told == []


def test_writer_saves_the_outlines_that_were_read(viewer, slide, tmp_path, told):
    write_geojson(REGIONS, tmp_path / "case.geojson")
    viewer.open(str(slide), plugin="napari-histoad")
    viewer.open(str(tmp_path / "case.geojson"), plugin="napari-histoad")
    shapes = [layer for layer in viewer.layers if isinstance(layer, Shapes)]
    viewer.layers.selection = set(shapes)
    assert viewer.layers.save(str(tmp_path / "again.geojson"), selected=True)
    again = {region.name: region.geometry for region in read_regions(tmp_path / "again.geojson")}
    for region in REGIONS:
        assert again[region.name].symmetric_difference(region.geometry).area < 1e-3


def test_writer_converts_um_to_pixels_and_leaves_lines_out(viewer, slide, tmp_path, told):
    viewer.open(str(slide), plugin="napari-histoad")
    square = np.array([[0, 0], [0, 100], [50, 100], [50, 0]], float)
    layer = viewer.add_shapes(
        [square, square[[0, 1]], square, np.array([[1, 1], [2, 2], [1, 1.0]])],
        shape_type=["ellipse", "line", "rectangle", "polygon"],
        name="mine",
        features={"class": ["Tumor", "x", None, "y"]},
    )
    assert layer.save(str(tmp_path / "mine.geojson")) == [str(tmp_path / "mine.geojson")]
    ellipse, rectangle = read_regions(tmp_path / "mine.geojson")
    assert (ellipse.name, rectangle.name) == ("Tumor", "")
    assert ellipse.geometry.area == pytest.approx(np.pi * 100 * 200, rel=0.01)
    assert rectangle.geometry.bounds == pytest.approx((0.5, 0.5, 200.5, 400.5))
    assert "2 shapes without an area" in told[0]


def test_writer_gives_the_normal_class_without_a_slide(tmp_path, told):
    square = np.array([[0, 0], [0, 100], [50, 100], [50, 0]], float)
    data = Shapes([square], shape_type="polygon", name=f"{NORMAL_NAME} [1]").as_layer_data_tuple()
    write_shapes(str(tmp_path / "a.geojson"), [data])
    (region,) = read_regions(tmp_path / "a.geojson")
    assert region.is_normal
    assert region.geometry.bounds == (0.5, 0.5, 50.5, 100.5)
    with pytest.raises(annotation_layers.RegionError, match="no shape encloses"):
        write_shapes(str(tmp_path / "b.geojson"), [Shapes(name="empty").as_layer_data_tuple()])
    assert not (tmp_path / "b.geojson").exists()


def test_reader_takes_unclassed_outlines_as_normal_and_notes_outlines_beyond_the_slide(viewer, slide, tmp_path, told):
    write_geojson([Region(box(5000, 0, 6000, 100))], tmp_path / "case.geojson")
    viewer.open(str(slide), plugin="napari-histoad")
    viewer.open(str(tmp_path / "case.geojson"), plugin="napari-histoad")
    assert NORMAL_NAME in viewer.layers
    assert "no class" in told[0]
    assert "are completely outside" in told[1]


def test_reader_reads_annotations_only(tmp_path, monkeypatch):
    document = {"type": "FeatureCollection", "features": []}
    (tmp_path / "settings.json").write_text('{"colour": "red"}')
    (tmp_path / "a.json").write_text(json.dumps(document))
    (tmp_path / "b.geojson").write_text(json.dumps(document))
    (tmp_path / "c.json").write_text(json.dumps({"positive": []}), encoding="utf-16")
    with gzip.open(tmp_path / "d.geojson.gz", "wt") as packed:
        json.dump(document, packed)
    assert get_reader(str(tmp_path / "settings.json")) is None
    assert get_reader(str(tmp_path / "none.geojson")) is None
    for name in ("a.json", "b.geojson", "c.json", "d.geojson.gz"):
        assert get_reader(str(tmp_path / name))
    said = []
    monkeypatch.setattr("napari_histoad.gui.reader.show_error", said.append)
    assert get_reader(str(tmp_path / "a.json"))(str(tmp_path / "a.json")) == [(None,)]
    assert "has no " in said[0]


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    path = tmp_path / "case.geojson"
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(path), ""))
    return path


def test_import_adds_normal_outlines_and_shows_other_classes(panel, viewer, slide, chosen):
    write_geojson([*REGIONS, Region(box(2000, 2000, 2100, 2100), "Tumor")], chosen)
    viewer.open(str(slide), plugin="napari-histoad")
    panel["normal"].import_button.native.click()
    assert [region.geometry.bounds for region in panel.context.outlines.regions()] == [(10, 20, 60, 90)]
    (layer,) = panel.context.outlines.layers()
    assert layer.scale == pytest.approx((0.25, 0.25))
    others = viewer.layers["Annotations of case"]
    assert sorted(set(others.features["class"])) == ["Tumor", "Tumor: Necrosis"]
    assert "1 of 1 outlines of normal tissue were added" in panel["normal"].info.text()
    assert "beyond" in panel["normal"].info.text()
    panel["normal"].import_button.native.click()
    assert len(panel.context.outlines.regions()) == 1
    assert "were added before" in panel["normal"].info.text()
    assert sum(y.name.startswith("Annotations") for y in viewer.layers) == 1
    layer.add_rectangles([[[500, 500], [500, 600], [600, 600], [600, 500]]])
    assert len(panel.context.outlines.regions()) == 2


@pytest.mark.parametrize("content", ["{", '{"type": "FeatureCollection", "features": []}'])
def test_import_of_a_file_without_outlines_is_an_error_in_step_3(panel, viewer, slide, chosen, words, content):
    chosen.write_text(content)
    viewer.open(str(slide), plugin="napari-histoad")
    panel["normal"].import_button.native.click()
    assert "case.geojson" in panel["normal"].message.text()
    assert len(viewer.layers) == 1


def test_autosave_saves_dropped_outlines(panel, viewer, slide, tmp_path, told, qtbot):
    write_geojson(REGIONS[:1], tmp_path / "case.geojson")
    viewer.open(str(slide), plugin="napari-histoad")
    viewer.window._qt_viewer._qt_open([str(tmp_path / "case.geojson")], stack=False)
    saved = panel.controller.chosen.out / f"{panel.controller.chosen.slide.name}.normal.geojson"
    qtbot.waitUntil(saved.exists)
    assert [region.geometry.bounds for region in read_regions(saved)] == [(10, 20, 60, 90)]
