import gzip
import json
import zipfile

import pytest
from shapely.geometry import box

from napari_histoad.errors import RegionError, SettingsError
from napari_histoad.regions import (
    Annotations,
    Region,
    normal_regions,
    outside_note,
    read_annotations,
    read_regions,
    write_geojson,
)

RING = [[200, 300], [1000, 300], [1000, 900], [200, 900], [200, 300]]  # y 300–900, x 200–1000
SQUARE = {"type": "Polygon", "coordinates": [RING]}
BOUNDS = (300, 200, 900, 1000)


def feature(geometry=SQUARE, class_name="Tumor", **properties):
    classification = {} if class_name is None else {"classification": {"name": class_name}}
    return {"type": "Feature", "geometry": geometry, "properties": {**classification, **properties}}


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.fixture
def write(tmp_path):
    def write(document, name="a.geojson"):
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


@pytest.mark.parametrize(
    "geometry",
    [
        polygon(RING[:-1]),
        polygon([[x, y, 0] for x, y in RING]),
        polygon([[x, y, 0] if x > 200 else [x, y] for x, y in RING]),
        polygon([[str(x), str(y)] for x, y in RING]),
        polygon(RING, []),
        polygon(RING, [[300, 400], [300, 400]]),
        polygon([[200, 300], [1000, 900], [1000, 300], [200, 900], [200, 300]]),
        {"type": "MultiPolygon", "coordinates": [[RING]]},
        {"type": "MultiPolygon", "coordinates": [[RING], [[[1, 1], [2, 2]]]]},
        {"type": "MultiPolygon", "coordinates": [[RING], [[[300, 400], [400, 400], [400, 500]]]]},
        {**SQUARE, "isEllipse": True, "plane": {"c": -1, "z": 3, "t": 0}},
        {"type": "GeometryCollection", "geometries": [{"type": "LineString", "coordinates": [[0, 0], [5, 5]]}, SQUARE]},
        {"type": "GeometryCollection", "geometries": [{"type": "GeometryCollection", "geometries": [SQUARE]}]},
    ],
)
def test_read_annotations_reads_areas_of_any_program(write, geometry):
    (region,) = read_regions(write(collection(feature(geometry))))
    assert region.geometry.bounds == BOUNDS
    assert region.geometry.is_valid
    assert region.name == "Tumor"


@pytest.mark.parametrize(
    "document",
    [[feature()], feature(), [{**SQUARE, "classification": "Tumor"}], {**SQUARE, "class": "Tumor"}, collection(feature())],
)
def test_read_annotations_reads_collections_lists_features_and_geometries(write, document):
    assert [(r.name, r.geometry.bounds) for r in read_regions(write(document))] == [("Tumor", BOUNDS)]


NO_OUTLINES = {
    "null geometry": feature(None),
    "number as geometry": feature(3),
    "NaN": feature(polygon([[200, float("nan")], *RING[1:]])),
    "inf": feature(polygon([[200, float("inf")], *RING[1:]])),
    "too large": feature(polygon([[0, 0], [1e200, 0], [1e200, 1e200]])),
    "null coordinate": feature(polygon([[200, None], *RING[1:]])),
    "no rings": feature(polygon()),
    "empty ring": feature(polygon([])),
    "two corners": feature(polygon([[1, 1], [2, 2]])),
    "zero area": feature(polygon([[1, 1], [2, 2], [1, 1]])),
    "on a line": feature(polygon([[1, 1], [2, 2], [3, 3], [1, 1]])),
    "numbers for points": feature(polygon([1, 2, 3, 4])),
    "one number per point": feature(polygon([[1], [2], [3]])),
    "words": feature(polygon([["a", "b"], ["c", "d"], ["e", "f"]])),
    "nested once too little": feature({"type": "Polygon", "coordinates": RING}),
    "nested once too often": feature({"type": "Polygon", "coordinates": [[RING]]}),
    "no coordinates": feature({"type": "Polygon"}),
    "null coordinates": feature({"type": "MultiPolygon", "coordinates": None}),
    "bad hole": feature(polygon(RING, [[300, 400], [float("nan"), 400], [300, 500]])),
    "unknown type": feature({"type": "Circle", "coordinates": [1, 2]}),
    "type is a list": feature({"type": ["Polygon"], "coordinates": [RING]}),
    "empty collection": feature({"type": "GeometryCollection", "geometries": []}),
    "null in collection": feature({"type": "GeometryCollection", "geometries": [None]}),
    "points": feature({"type": "MultiPoint", "coordinates": [[300, 400], [500, 500]]}),
    "line": feature({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}),
    "number": 3,
    "null": None,
    "text": "Feature",
    "list": [feature()],
    "no geometry": {"type": "Feature"},
    "cell": feature(objectType="cell"),
    "nucleus": {**feature(), "nucleusGeometry": SQUARE},
    "detection": feature(objectType="detection"),
    "tile": feature(object_type="tile"),
    "old cell": {**feature(), "id": "PathCellObject"},
    "old detection": {**feature(), "id": "PathDetectionObject"},
    "old root": {**feature(), "id": "PathRootObject"},
    "old core": {**feature(), "id": "TMACoreObject"},
    "core": feature(class_name=None, objectType="tma_core", name="A-1", isMissing=False),
    "core by flag": feature(isTMACore=True),
    "root": feature(objectType="root"),
    "ignore": feature(class_name="Ignore*"),
    "star": feature(class_name="Tumor: Anything*"),
}


@pytest.mark.parametrize("bad", NO_OUTLINES.values(), ids=NO_OUTLINES)
def test_read_annotations_leaves_out_and_names_invalid_features(write, bad):
    found = read_annotations(write(collection(feature(), bad)))
    assert [r.geometry.bounds for r in found.regions] == [BOUNDS]
    (note,) = found.notes
    assert note.startswith("a.geojson: 1 left out, ")
    assert "feature 2" in note
    with pytest.raises(RegionError, match=r"has no valid areas .*feature 1") as error:
        read_regions(write(collection(bad)))
    assert "\n" not in str(error.value)


def test_read_annotations_uses_region_star_areas_only_on_request(write):
    region, derived = feature(class_name="Region*"), feature(class_name="Region*: left")
    mixed = write(collection(feature(), region, derived, feature(class_name="Ignore*"), feature(class_name="Ignore*: Region*")))
    found = read_annotations(mixed)
    assert [r.name for r in found.regions] == ["Tumor"]
    assert sum("areas to analyse" in note for note in found.notes) == 1
    there = read_annotations(mixed, with_areas=True)
    assert [r.name for r in there.regions] == ["Tumor", "Region*", "Region*: left"]
    assert [note[:23] for note in there.notes] == ["a.geojson: 2 left out, "]
    alone = read_annotations(write(collection(region, feature(class_name="Ignore*"))))
    assert [r.name for r in alone.regions] == ["Region*"]
    assert len(alone.notes) == 1
    with pytest.raises(RegionError, match="no outline of the class Normal"):
        normal_regions(alone, "a.geojson")
    assert not Annotations.of(alone.regions).regions
    assert Annotations.of(alone.regions, with_areas=True).regions == alone.regions


def test_read_annotations_joins_equal_reasons_in_one_note(write):
    points = {"type": "Point", "coordinates": [1, 2]}
    found = read_annotations(write(collection(*[feature(points, name=f"spot {k}") for k in range(12)], feature())))
    (note,) = found.notes
    assert "12 left out, points or lines: feature 1 (spot 0), feature 2" in note
    assert note.endswith("and 2 more")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"type": "FeatureCollection", "features": null}', "no (valid )?areas"),
        ('{"type": "FeatureCollection", "features": {"a": 1}}', "not a list"),
        ("[]", "no (valid )?areas"),
        ("[" * 100_000, "nested too deeply"),
        (
            '{"type": "Feature", "geometry": ' + '{"type": "GeometryCollection", "geometries": [' * 400 + "]}" * 400 + "}",
            "no (valid )?areas",
        ),
        ('{"annotation": {"elements": []}}', "HistomicsUI"),
        ("<?xml version='1.0'?><ASAP_Annotations/>", "XML"),
        ("", "not JSON"),
        ("null", "not GeoJSON"),
        ('{"type": 3}', "not GeoJSON"),
        ('{"type": "Topology"}', "not GeoJSON"),
        ('{"positive": null, "negative": 3}', "no (valid )?areas"),
        ('{"positive": [null, 3, {"vertices": null}, {"vertices": [[1, 2], ["a", 3], [4, 5]]}]}', "positive polygon 1"),
        ("1" * 5000, "not JSON"),
    ],
)
def test_read_annotations_reports_unusable_files_in_one_line(write, text, word):
    with pytest.raises(RegionError, match=word) as error:
        read_regions(write(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_read_annotations_reads_any_encoding(tmp_path, encoding):
    path = tmp_path / "a.geojson"
    path.write_bytes(json.dumps(collection(feature(class_name="Tumör")), ensure_ascii=False).encode(encoding))
    found = read_annotations(path)
    assert [r.name for r in found.regions] == ["Tumör"]
    assert bool(found.notes) == (encoding == "latin-1")


def test_read_annotations_unpacks_gzip_and_zip(tmp_path):
    text = json.dumps(collection(feature()))
    with gzip.open(tmp_path / "a.geojson.gz", "wt") as packed:
        packed.write(text)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("slide.geojson", text)
        archive.writestr("__MACOSX/._slide.geojson", "x")
    for name in ("a.geojson.gz", "a.zip"):
        assert [r.name for r in read_regions(tmp_path / name)] == ["Tumor"]
    whole = (tmp_path / "a.geojson.gz").read_bytes()
    (tmp_path / "cut.gz").write_bytes(whole[:-30])
    (tmp_path / "bad.gz").write_bytes(whole[:20] + b"garbage" * 9)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:60])
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("shape.roi", "x")
    for name in ("cut.gz", "bad.gz", "cut.zip", "empty.zip"):
        with pytest.raises(RegionError, match=name):
            read_regions(tmp_path / name)
    with pytest.raises(RegionError, match="cannot be read"):
        read_regions(tmp_path)


def test_read_annotations_keeps_all_values_of_a_repeated_key(write):
    properties = '{"classification": {"name": "Tumor"}, "classification": {"name": "Normal"}}'
    text = '{"type": "Feature", "geometry": %s, "properties": ' + properties + "}"
    (region,) = read_regions(write(text % json.dumps(SQUARE)))
    assert region.meaning == "unknown"


def test_read_annotations_reads_measurements_of_all_qupath_versions(write):
    text = json.dumps(
        collection(feature(measurements={"a": 1, "b": "x", "d": True}), feature(measurements=[{"name": "c", "value": 2}]))
    )
    one, two = read_regions(write(text.replace('"x"', "NaN")))
    assert one.measurements == {"a": 1.0}
    assert two.measurements == {"c": 2.0}


def test_read_annotations_of_camelyon_takes_negative_as_normal(write):
    square = {"name": "_0", "vertices": RING}
    found = read_annotations(write({"positive": [square, {"vertices": [[1, 2]]}], "negative": [square]}, "c.json"))
    assert [r.meaning for r in found.regions] == ["anomalous", "normal"]
    assert "positive polygon 2" in found.notes[0]


@pytest.mark.parametrize("downsample", [0, -1, float("nan"), float("inf")])
def test_read_annotations_refuses_a_downsample_that_is_not_positive(write, downsample):
    with pytest.raises(SettingsError):
        read_regions(write(collection(feature())), downsample)


def test_normal_regions_are_all_outlines_if_none_has_a_class(write):
    found = read_annotations(write(collection(feature(class_name=None), feature(None, class_name=None))))
    regions, notes = normal_regions(found, "a.geojson")
    assert len(regions) == 1
    assert "no class" in notes[0]


@pytest.mark.parametrize(
    "other",
    [
        feature(),
        feature(class_name="Negative"),
        feature(class_name="Ignore*"),
        feature(class_name="Region*"),
        feature(None),
        feature(class_name=None, diagnosis="carcinoma"),
        feature(class_name=None, name="ROI 1"),
        feature(class_name=None, classification={"colorRGB": -1}),
        feature(class_name=None, classification={"names": ["Tumor", "Necrosis"]}),
        feature(class_name=None, classification=[["Tumor"]]),
        {**feature(class_name=None), "properties": ["Tumor"]},
    ],
)
def test_normal_regions_leave_out_outlines_without_a_class_if_others_have_one(write, other):
    unclassed = feature(class_name=None)
    with pytest.raises(RegionError, match="no outline of the class Normal"):
        normal_regions(read_annotations(write(collection(unclassed, other))), "a.geojson")
    regions, notes = normal_regions(
        read_annotations(write(collection(unclassed, feature(class_name="Normal"), other))), "a.geojson"
    )
    assert [r.name for r in regions] == ["Normal"]
    assert "1 without a class" in notes[-1]


def test_write_geojson_keeps_regions_without_a_class(tmp_path):
    regions = [Region(box(0, 0, 9, 9), "", {"a": float("nan")}), Region(box(0, 0, 9, 9), "Normal: Stroma")]
    write_geojson(regions, tmp_path / "a.geojson")
    assert json.loads((tmp_path / "a.geojson").read_text(), parse_constant=pytest.fail)
    assert [r.name for r in read_regions(tmp_path / "a.geojson")] == ["", "Normal: Stroma"]
    assert [r.name for r in Annotations.of(regions).regions] == ["", "Normal: Stroma"]


def test_normal_regions_cut_out_smaller_outlines_of_other_classes():
    normal = Region(box(0, 0, 90, 90), "Normal")
    inside, around, apart = (Region(box(*b), "Tumor") for b in ((30, 30, 60, 60), (-50, -50, 500, 500), (900, 900, 910, 910)))
    ignored = Region(box(0, 0, 10, 10), "Ignore*")
    (left,), _ = normal_regions(Annotations.of([inside, normal, around, apart, ignored]), "a")
    assert left.geometry.area == 90 * 90 - 30 * 30 - 10 * 10


def test_outside_note_counts_outlines_beyond_the_slide():
    regions = [Region(box(0, 0, 50, 100.5)), Region(box(0, 0, 50, 300)), Region(box(500, 500, 600, 600))]
    assert outside_note(regions[:1], (50, 100), "a.svs") == ""
    assert "2 of 3 outlines extend beyond a.svs (100 × 50 px), 1 of them are completely outside" in outside_note(
        regions, (50, 100), "a.svs"
    )
