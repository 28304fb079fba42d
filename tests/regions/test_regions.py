import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import Polygon

from napari_histoad.errors import OutputError, RegionError
from napari_histoad.regions import Region, coverage, read_regions, regions_from_shapes, shapes_from_regions, write_geojson

SQUARE = Polygon([(10, 20), (10, 60), (50, 60), (50, 20)])  # y 10–50, x 20–60


def test_read_regions_exchanges_x_and_y(tmp_path):
    path = tmp_path / "a.geojson"
    write_geojson([Region(SQUARE, "Tumor", {"Area": 2.0})], path)
    written = json.loads(path.read_text())["features"][0]
    xs = [x for x, _ in written["geometry"]["coordinates"][0]]
    assert (min(xs), max(xs)) == (20, 60)
    assert written["properties"]["classification"]["name"] == "Tumor"
    assert read_regions(path) == [Region(SQUARE, "Tumor", {"Area": 2.0})]


def test_write_geojson_keeps_holes(tmp_path):
    ring = Polygon([(0, 0), (0, 90), (90, 90), (90, 0)], [[(30, 30), (30, 60), (60, 60), (60, 30)]])
    write_geojson([Region(ring)], tmp_path / "a.geojson")
    assert read_regions(tmp_path / "a.geojson")[0].geometry.area == 90 * 90 - 30 * 30


def test_read_regions_reads_camelyon_json_and_divides_by_downsample(tmp_path):
    path = tmp_path / "c.json"
    square = [[0, 0], [320, 0], [320, 640], [0, 640]]
    path.write_text(json.dumps({"positive": [{"name": "_0", "vertices": square}], "negative": []}))
    region = read_regions(path, downsample=32)[0]
    assert region.geometry.bounds == (0, 0, 20, 10)
    assert region.name == "positive"
    assert not region.is_normal


def test_real_annotations(data_folder):
    folder = data_folder / "annotations"
    level0 = read_regions(folder / "camelyon16_tumor_001_level0.json", downsample=32)
    level5 = read_regions(folder / "camelyon16_tumor_001_level5.geojson")
    assert [r.geometry.area for r in level0] == pytest.approx([r.geometry.area for r in level5])
    assert len(read_regions(folder / "qupath05.geojson")) == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("3", "not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "no areas"),
        ('{"type": "FeatureCollection", "features": [{"type": "Feature"}]}', "feature 1"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, "a"]]]}', "feature 1"),
        ('{"positive": [{"vertices": [[1, 2]]}]}', "positive polygon 1"),
    ],
)
def test_read_regions_reports_bad_files(tmp_path, text, word):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(RegionError, match=word):
        read_regions(path)


def test_read_and_write_report_missing_and_unwritable_files(tmp_path):
    with pytest.raises(RegionError, match="no annotation file"):
        read_regions(tmp_path / "none.geojson")
    with pytest.raises(OutputError):
        write_geojson([Region(SQUARE)], tmp_path / "no" / "folder.geojson")


boxes = st.lists(st.tuples(st.floats(-50, 90), st.floats(-50, 90), st.floats(1, 60), st.floats(1, 60)), min_size=1, max_size=20)


@given(boxes)
def test_coverage_is_the_area_of_the_intersection(values):
    array = np.array([[y, x, y + h, x + w] for y, x, h, w in values])
    overlapping = [Region(SQUARE), Region(shapely.affinity.translate(SQUARE, 10, 10))]
    union = shapely.union_all([r.geometry for r in overlapping])
    expected = [shapely.box(*b).intersection(union).area / shapely.box(*b).area for b in array]
    assert coverage(array, overlapping) == pytest.approx(expected, abs=1e-9)


def test_shapes_from_regions_and_back_keeps_vertices():
    data, names = shapes_from_regions([Region(SQUARE, "Normal")])
    assert data[0].min(axis=0).tolist() == [9.5, 19.5]  # napari: the centre of pixel 0 is 0
    again = regions_from_shapes(data, ["polygon"], names)
    assert again[0].geometry.equals(SQUARE)


def test_shapes_from_regions_cuts_the_outline_open_to_a_hole():
    ring = Polygon([(0, 0), (0, 90), (90, 90), (90, 0)], [[(30, 30), (30, 60), (60, 60), (60, 30)]])
    data, _ = shapes_from_regions([Region(ring)])
    assert regions_from_shapes(data, ["polygon"])[0].geometry.area == pytest.approx(ring.area)


def test_regions_from_shapes_reads_ellipses_and_ignores_lines():
    corners = np.array([[0, 0], [0, 40], [20, 40], [20, 0]], float)
    regions = regions_from_shapes([corners, corners[:2]], ["ellipse", "line"])
    assert len(regions) == 1
    assert regions[0].geometry.area == pytest.approx(np.pi * 10 * 20, rel=0.01)


def test_regions_from_shapes_refuses_a_shape_without_area():
    with pytest.raises(RegionError, match="shape 1"):
        regions_from_shapes([np.array([[0, 0], [5, 5], [9, 9]])], ["polygon"])
