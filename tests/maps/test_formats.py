"""Maps that earlier versions wrote open as they are; unfinished ones are finished in the current format."""

import json
import shutil
from random import Random

import numpy as np
import pytest
import tifffile
import zarr
from map_makers import bytes_of, fill, finish, make_map

from napari_histoad import AnomalyMap
from napari_histoad.maps import save_labels
from napari_histoad.results import CsvExport, GeoJsonExport, OmeTiffExport


def _to_format_2(folder):
    """Rewrite a map into the layout of format 2: levels 0, 1, … are the blended error maps, if there are any."""
    root = zarr.open_group(folder, mode="r+")
    if "errors" in root:
        for path, level in root["errors"].arrays():
            root[path][:] = level[:]
        shutil.rmtree(folder / "errors")
    described = json.loads((folder / "zarr.json").read_text())
    described["attributes"]["napari_histoad"]["format"] = 2
    described["attributes"]["ome"]["multiscales"][0]["name"] = "anomaly"
    (folder / "zarr.json").write_text(json.dumps(described))


def _filled(folder, *, error_maps):
    result = make_map(folder, shape=(2300, 1900), cell_um=2.0)
    fill(result, range(result.block_count), error_maps=error_maps)
    return result


@pytest.fixture(params=[True, False], ids=["error maps", "scores alone"])
def new_and_old(tmp_path, request):
    new = _filled(tmp_path / "new" / "a.ome.zarr", error_maps=request.param)
    finish(new)
    shutil.copytree(new.path, tmp_path / "old" / "a.ome.zarr")
    _to_format_2(tmp_path / "old" / "a.ome.zarr")
    return AnomalyMap.open(new.path), AnomalyMap.open(tmp_path / "old" / "a.ome.zarr")


def test_open_reads_the_same_scores_flags_and_error_maps_from_format_2(new_and_old):
    new, old = new_and_old
    assert (new.info.format, old.info.format) == (3, 2)
    assert np.array_equal(old.scores, new.scores)
    assert np.array_equal(old.p_values, new.p_values)
    assert np.array_equal(old.score_field(), new.score_field(), equal_nan=True)
    assert np.array_equal(old.flag(0.3), new.flag(0.3))
    assert len(old.error_levels) == len(new.error_levels)
    for ours, theirs in zip(new.error_levels, old.error_levels, strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs), equal_nan=True)
    save_labels(old, 0.4)
    assert np.array_equal(np.asarray(old.saved_labels), new.flag(0.4))


def test_exports_of_a_map_of_format_2_are_named_after_what_they_hold(new_and_old, tmp_path):
    new, old = new_and_old
    for source, name in ((new, "new"), (old, "old")):
        GeoJsonExport().write(source, tmp_path / f"{name}.geojson", rate=0.3)
        CsvExport().write(source, tmp_path / f"{name}.csv")
        OmeTiffExport().write(source, tmp_path / f"{name}.ome.tif")
    assert (tmp_path / "old.csv").read_bytes() == (tmp_path / "new.csv").read_bytes()
    outlines = [json.loads((tmp_path / f"{name}.geojson").read_text())["features"] for name in ("new", "old")]
    assert [each["geometry"] for each in outlines[0]] == [each["geometry"] for each in outlines[1]]
    for source, name in ((new, "new"), (old, "old")):
        with tifffile.TiffFile(tmp_path / f"{name}.ome.tif") as tif:
            assert np.array_equal(tif.asarray(), np.asarray(source.levels[0]), equal_nan=True)
            title = "Error map" if source is old and new.error_levels else "Anomaly map"
            assert f'Name="{title} of a.tif"' in tif.ome_metadata


@pytest.mark.parametrize("error_maps", [True, False])
def test_map_job_finishes_an_unfinished_map_of_format_2_in_the_current_format(tmp_path, error_maps):
    new = _filled(tmp_path / "new.ome.zarr", error_maps=error_maps)
    finish(new)
    old = make_map(tmp_path / "old.ome.zarr", shape=(2300, 1900), cell_um=2.0)
    blocks = Random(0).sample(range(old.block_count), old.block_count)
    fill(old, blocks[:20], error_maps=error_maps)
    level = zarr.open_array(old.path / "0", mode="r+")  # the pyramid of what was scored so far
    level[:900, :600] = 0.5
    _to_format_2(old.path)
    old = make_map(old.path, shape=(2300, 1900), cell_um=2.0)
    assert old.finished_blocks() == set(blocks[:20])
    fill(old, blocks[20:], error_maps=error_maps)
    finish(old)
    assert old.info.format == 3
    ours, theirs = (bytes_of(folder) for folder in (new.path, old.path))
    assert {str(n) for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)} <= {"zarr.json"}  # the pyramid's name


def test_map_job_leaves_a_finished_map_of_format_2_unchanged(new_and_old):
    _, old = new_and_old
    before = bytes_of(old.path)
    finish(make_map(old.path, shape=(2300, 1900), cell_um=2.0))
    assert bytes_of(old.path) == before
