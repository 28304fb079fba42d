"""Tiles that are artefacts are marked or left out, and either is stated."""

import json

import numpy as np
import pyarrow.parquet
import pytest
from shapely.geometry import box

from napari_histoad import AnomalyMap, map_slide, open_slide
from napari_histoad.cli._app import app
from napari_histoad.errors import EmptyTissueError, OtherMapError, SettingsError
from napari_histoad.regions import Region, write_geojson
from napari_histoad.results import ParquetExport
from napari_histoad.tiles import artefacts_note, kinds_of

PEN = slice(256, 640), slice(256, 768)


@pytest.fixture
def inked(sample, write_tiff):
    """Tissue, part of which is under a pen."""
    with open_slide(sample.path) as slide:
        image = slide.read(0, 512, 512, 1024, 1024)
    image[PEN] = (image[PEN] * np.array([0.05, 0.1, 0.5])).astype(np.uint8)
    return write_tiff(image, "inked.tif", tile=(128, 128))


def mapped(slide, out, detector_file, **options):
    """Map all of a slide, what tissue is found under a pen or not."""
    whole = [Region(box(0, 0, 1024, 1024), "tissue")]
    options = {"regions": whole, "tissue_from": "regions"} | options
    return map_slide(slide, out, model=detector_file, stride_px=64, device="cpu", **options)


def inside(result):
    """Return which tiles are wholly under the pen."""
    y, x = (result.origins + result.info.tile_l0 / 2).T
    return (abs(y - 448) < 150) & (abs(x - 512) < 220)


def test_mark_states_artefacts_and_changes_no_score(inked, detector_file, tmp_path):
    marked = mapped(inked, tmp_path / "mark", detector_file)
    ignored = mapped(inked, tmp_path / "ignore", detector_file, artefacts="ignore")
    assert np.array_equal(marked.scores, ignored.scores)
    probability = np.asarray(marked.column("artefact"))
    assert probability[inside(marked)].min() > 0.5
    assert probability.min() < 0.1
    (note,) = (note for note in marked.notes if "artefacts" in note)
    count = (probability >= 0.5).sum()
    assert note.startswith(f"{count} of {len(marked)} tiles look like artefacts and were scored like the others")
    assert "pen" in note
    assert ignored.artefacts is None
    assert not any("artefacts" in note for note in ignored.notes)


def test_leave_out_does_not_score_artefacts_and_says_how_many(inked, detector_file, tmp_path):
    marked = mapped(inked, tmp_path / "mark", detector_file)
    left = mapped(inked, tmp_path / "leave-out", detector_file, artefacts="leave-out")
    clean = np.asarray(marked.column("artefact")) < 0.5
    scores = {tuple(origin): score for origin, score in zip(marked.origins[clean], marked.scores[clean], strict=True)}
    assert dict(zip(map(tuple, left.origins), left.scores, strict=True)) == pytest.approx(scores, rel=1e-5)
    (note,) = (note for note in left.notes if "artefacts" in note)
    assert note.startswith(f"{(~clean).sum()} of {len(marked)} tiles were left out as artefacts")
    cells = np.asarray(left.levels[0])
    centre = cells[int(448 / left.geometry.cell_l0), int(512 / left.geometry.cell_l0)]
    assert np.isnan(centre)
    assert np.array_equal(left.artefacts.kinds, marked.artefacts.kinds)


def test_leave_out_explains_a_slide_of_artefacts_only(inked, detector_file, tmp_path):
    pen = [Region(box(320, 320, 576, 576), "tissue")]
    with pytest.raises(EmptyTissueError, match="all tiles of inked.tif look like artefacts"):
        mapped(inked, tmp_path, detector_file, regions=pen, artefacts="leave-out")


def test_map_with_another_choice_is_refused_and_one_of_an_earlier_version_continued(inked, detector_file, tmp_path):
    first = mapped(inked, tmp_path, detector_file, artefacts="ignore")
    with pytest.raises(OtherMapError, match="its artefacts differ"):
        mapped(inked, tmp_path, detector_file)
    described = first.path / "zarr.json"
    content = json.loads(described.read_text())
    del content["attributes"]["napari_histoad"]["artefacts"]
    described.write_text(json.dumps(content))
    assert mapped(inked, tmp_path, detector_file).artefacts is None


def test_unknown_choice_is_refused_before_any_work(inked, detector_file, tmp_path):
    with pytest.raises(SettingsError, match="choose mark, leave-out, ignore"):
        mapped(inked, tmp_path / "out", detector_file, artefacts="drop")
    assert not (tmp_path / "out").exists()


def test_terminal_says_what_was_marked_and_tables_hold_kinds(inked, detector_file, tmp_path, capsys):
    write_geojson([Region(box(0, 0, 1024, 1024), "tissue")], tmp_path / "whole.geojson")
    args = ["map", inked, "--model", detector_file, "--out", tmp_path, "--stride", 64, "--device", "cpu", "--json"]
    args += ["--tissue", "regions", "--regions", tmp_path / "whole.geojson", "--artefacts", "mark"]
    with pytest.raises(SystemExit) as left:
        app([str(arg) for arg in args])
    assert left.value.code == 0
    (described,) = json.loads(capsys.readouterr().out)["maps"]
    result = AnomalyMap.open(described["map"])
    ParquetExport().write(result, tmp_path / "tiles.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "tiles.parquet")
    assert np.array_equal(table["artefact"].to_numpy(), np.asarray(result.column("artefact")))
    kinds = table["artefact_kind"].to_pylist()
    assert kinds == kinds_of(result.artefacts.of_boxes(result.boxes))
    assert artefacts_note(kinds, left_out=False) in described["notes"]
