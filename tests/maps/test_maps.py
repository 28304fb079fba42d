import json
from itertools import pairwise

import numpy as np
import pyarrow.parquet
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from map_makers import bytes_of, fill, fill_evenly, finish, make_map, scored_block
from PIL import Image

from napari_histoad import AnomalyMap, open_slide, read_regions
from napari_histoad.errors import MapError, SettingsError
from napari_histoad.maps import BLOCK_TILES, MapGeometry, MapWriter
from napari_histoad.results import (
    CsvExport,
    GeoJsonExport,
    OmeTiffExport,
    ParquetExport,
    PngExport,
    measure_regions,
    write_report,
)
from napari_histoad.tiles import TileGrid


@given(st.sampled_from([32, 64, 96]), st.integers(1, 4), st.floats(1.0, 4.0099), st.floats(2, 40))
@settings(max_examples=40)
def test_map_geometry_places_tile_origins_on_cell_borders(tile_px, quarter, ratio, cell_um):
    grid = TileGrid.cover((3000, 2500), 0.5, tile_px=tile_px, mpp=0.5 * ratio, stride_px=tile_px * quarter // 4)
    geometry = MapGeometry.of(grid, (3000, 2500), cell_um)
    assert geometry.tile_cells(grid.origins) * geometry.cell_l0 == pytest.approx(grid.origins)
    assert geometry.cells_per_tile * geometry.cell_l0 == pytest.approx(
        grid.tile_l0, abs=geometry.cells_per_tile / geometry.cells_per_step + 1e-6
    )


@pytest.mark.parametrize("downsample", [1.0, 3.7, 64.0099])
def test_map_geometry_aligns_the_corners_of_map_and_slide(downsample):
    shape = (6001, 4999)
    grid = TileGrid.cover(shape, 0.5, tile_px=32, mpp=0.5 * downsample)
    geometry = MapGeometry.of(grid, shape, 8.0)
    for level, (h, w) in enumerate(geometry.level_shapes(1)):
        # napari: the centre of cell 0 lies at `translate`, and cells are `scale` apart; pixel 0 of the slide at 0.
        first_edge = geometry.translate(level) - geometry.scale(level) / 2
        assert first_edge == pytest.approx(-0.5, abs=1e-6)
        for n, full in ((h, shape[0]), (w, shape[1])):
            last_edge = first_edge + n * geometry.scale(level)
            assert full - 0.5 <= last_edge + 1e-6 < full - 0.5 + geometry.scale(level) + geometry.scale(max(level, 0))


def test_map_has_the_same_bytes_for_any_order_of_blocks_and_any_interruption(tmp_path):
    straight = make_map(tmp_path / "a.ome.zarr")
    n = straight.block_count
    assert n > 20
    fill(straight, range(n))
    finish(straight)
    cut = make_map(tmp_path / "b.ome.zarr")
    fill(cut, [5, 2, 7])
    with (cut.path / "journal").open("a") as journal:
        journal.write("11")  # cut short while writing
    cut = make_map(tmp_path / "b.ome.zarr")  # another process goes on
    assert cut.finished_blocks() == {5, 2, 7}
    fill(cut, [b for b in range(n) if b not in (5, 2, 7)][::-1])
    finish(cut)
    assert bytes_of(straight.path) == bytes_of(cut.path)


def test_finish_job_refuses_maps_with_missing_blocks(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    fill(result, [0])
    with pytest.raises(MapError, match="blocks are missing"):
        finish(result)


def test_create_map_refuses_or_replaces_a_map_made_with_other_settings(tmp_path):
    folder = tmp_path / "a.ome.zarr"
    fill(make_map(folder), [0])
    with pytest.raises(MapError, match="its stride.*--no-resume"):
        make_map(folder, stride_px=64)
    assert make_map(folder, stride_px=64, resume=False).finished_blocks() == set()


def test_create_map_never_deletes_a_folder_that_is_not_a_map(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter1.tex").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(MapError, match="not an anomaly map"):
            make_map(folder, resume=resume)
    assert (folder / "chapter1.tex").exists()


def test_anomaly_map_of_uniform_tiles_has_no_seams(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    fill_evenly(result, lambda n: np.full(n, 0.7))
    finish(result)
    for level in result.levels:
        values = np.asarray(level)
        assert not np.isnan(values).any()
        assert np.ptp(values) < 1e-6
    assert np.ptp(result.score_field()) < 1e-6


def test_levels_are_means_of_the_next_finer_level(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr", shape=(2350, 2100), cell_um=2.0)
    fill(result, range(result.block_count))
    finish(result)
    assert len(result.levels) == 3
    for levels in (result.levels, result.error_levels):
        for finer, coarser in pairwise(levels):
            fine, coarse = np.asarray(finer), np.asarray(coarser)
            h, w = fine.shape[0] // 2 * 2, fine.shape[1] // 2 * 2
            assert not np.isnan(coarse).any()
            assert coarse[: h // 2, : w // 2] == pytest.approx(fine[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3)), rel=1e-5)


def test_levels_equal_the_score_field_that_is_thresholded(map_folder):
    result = AnomalyMap.open(map_folder)
    assert np.array_equal(np.asarray(result.levels[0]), result.score_field(), equal_nan=True)
    assert np.array_equal(np.asarray(result.error_levels[0]), result.error_field(), equal_nan=True)
    above = np.asarray(result.levels[0]) > result.calibration.threshold(0.3)
    assert np.array_equal(result.flag(0.3, 0) > 0, above)


def test_score_field_of_a_box_equals_that_part_of_the_whole(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    fill(result, range(0, result.block_count, 2))
    whole = result.score_field()
    assert np.array_equal(whole[20:70, 30:100], result.score_field((20, 30, 70, 100)), equal_nan=True)
    assert np.isnan(whole).any()


@pytest.mark.parametrize("tiles", [slice(0, 1), slice(100, 400, 37), slice(-3, None)])
def test_score_field_is_the_weighted_mean_of_the_tiles_over_each_cell(tmp_path, tiles):
    result = make_map(tmp_path / "a.ome.zarr", tiles=tiles)
    fill(result, range(result.block_count))
    total, weight = np.zeros((2, *result.geometry.shape))
    c, window = result.geometry.cells_per_tile, result.geometry.window()
    for (y, x), score in zip(result.geometry.tile_cells(result.origins), result.scores, strict=True):
        h, w = total[y : y + c, x : x + c].shape
        total[y : y + c, x : x + c] += score * window[:h, :w]
        weight[y : y + c, x : x + c] += window[:h, :w]
    with np.errstate(invalid="ignore"):
        expected = total / weight
    assert 0 < np.isnan(expected).sum() < expected.size
    for y0, x0, y1, x1 in ((0, 0, *expected.shape), (3, 5, 60, 90), (50, 40, 51, 41)):
        np.testing.assert_allclose(result.score_field((y0, x0, y1, x1)), expected[y0:y1, x0:x1], rtol=1e-5)


def test_score_field_is_nan_where_tiles_could_not_be_read(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    fill_evenly(result, lambda n: np.where(np.arange(n) == 3, np.nan, 0.5))
    finish(result)
    assert result.info.failed_tiles == result.block_count - (len(result) % BLOCK_TILES in (1, 2, 3))
    assert np.isnan(result.p_values[3])
    assert not np.isnan(np.asarray(result.levels[0])).any()  # neighbours fill in


def test_map_is_valid_ome_zarr_with_scale_and_translation(map_folder):
    group = zarr.open_group(map_folder, mode="r")
    multiscales = group.attrs["ome"]["multiscales"][0]
    assert group.attrs["ome"]["version"] == "0.5"
    result = AnomalyMap.open(map_folder)
    for dataset, level in zip(multiscales["datasets"], range(9), strict=False):
        scale, translation = (t[k] for t, k in zip(dataset["coordinateTransformations"], ("scale", "translation"), strict=True))
        assert scale == [result.geometry.scale(level) * 0.5] * 2
        assert translation[0] == pytest.approx((scale[0] - 0.5) / 2)
    errors = group["errors"].attrs["ome"]["multiscales"][0]
    assert errors["datasets"] == multiscales["datasets"]
    assert (multiscales["name"], errors["name"]) == ("anomaly map", "error map")
    assert [group[f"errors/{d['path']}"].shape for d in errors["datasets"]] == [
        group[d["path"]].shape for d in errors["datasets"]
    ]
    assert group["labels"].attrs["ome"]["labels"] == ["anomalous"]
    assert group["labels/anomalous/0"].shape == group["0"].shape
    assert not (map_folder / "journal").exists()


def test_score_field_is_nan_outside_the_tissue(map_folder):
    result = AnomalyMap.open(map_folder)
    scored = ~np.isnan(np.asarray(result.levels[0]))
    on_tissue = result.tissue_cells(0, 0, *result.geometry.shape)
    assert not (scored & ~on_tissue).any()
    assert scored.sum() > 0.9 * on_tissue.sum()


def test_flag_finds_more_at_higher_false_positive_rates(map_folder):
    result = AnomalyMap.open(map_folder)
    areas = [(result.flag(rate, 0) > 0).sum() for rate in (0.05, 0.1, 0.3, 0.6)]
    assert areas == sorted(areas)
    assert areas[-1] > 0


def test_measure_regions_outlines_the_flagged_cells(map_folder):
    result = AnomalyMap.open(map_folder)
    labels, regions = result.flag(0.3), measure_regions(result, 0.3)
    assert len(regions) == labels.max() > 0
    cell_mm2 = (result.geometry.cell_l0 * 0.5) ** 2 / 1e6
    assert sum(r.measurements["Area mm²"] for r in regions) == pytest.approx((labels > 0).sum() * cell_mm2)
    for region in regions:
        assert region.geometry.area * 0.25e-6 == pytest.approx(region.measurements["Area mm²"], rel=0.35, abs=0.0005)
    scores = [r.measurements.get("Mean score", 0) for r in regions]
    assert scores == sorted(scores, reverse=True)


def test_exports_write_files_that_other_programs_read(map_folder, sample, tmp_path):
    result = AnomalyMap.open(map_folder)
    GeoJsonExport().write(result, tmp_path / "a.geojson", rate=0.3)
    assert len(read_regions(tmp_path / "a.geojson")) == len(measure_regions(result, 0.3))
    ParquetExport().write(result, tmp_path / "a.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["y", "x", "size", "score", "p_value", "artefact", "artefact_kind"]
    assert np.array_equal(table["score"].to_numpy(), result.scores)
    CsvExport().write(result, tmp_path / "a.csv")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(result) + 1
    with pytest.raises(SettingsError, match="png needs the slide"):
        PngExport().write(result, tmp_path / "a.png")
    OmeTiffExport().write(result, tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tif:
        assert tif.is_ome
        assert len(tif.series[0].levels) == len(result.levels)
        assert np.array_equal(tif.asarray(), np.asarray(result.levels[0]), equal_nan=True)


def test_overlay_colours_only_tissue(map_folder, sample, tmp_path):
    result = AnomalyMap.open(map_folder)
    with open_slide(sample.path) as slide:
        PngExport(max_px=512).write(result, tmp_path / "a.png", slide=slide, rate=1e-3)
        plain = slide.thumbnail(512).astype(int)
    picture = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    changed = np.abs(picture - plain).sum(2) > 6
    y, x = np.mgrid[:512, :512] * 4 + 2
    depth = sample.plan.tissue(y[:, 0].astype(float), x[0].astype(float))
    assert changed.any()
    assert not changed[depth < -0.06].any()


def test_report_contains_all_its_pictures(map_folder, sample, tmp_path):
    result = AnomalyMap.open(map_folder)
    with open_slide(sample.path) as slide:
        write_report(
            [(result, slide)],
            tmp_path / "r.html",
            truth={"sample.tif": sample.plan.planted},
            evaluations={"sample.tif": [("AUROC", "0.9 <b>")]},
        )
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 2
    assert "0.9 &lt;b&gt;" in page
    assert "not a diagnosis" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("damage", ["missing", "empty", "file", "attributes"])
def test_open_explains_what_is_not_a_map(tmp_path, map_folder, damage):
    folder = tmp_path / "x.ome.zarr"
    if damage == "empty":
        folder.mkdir()
    elif damage == "file":
        folder.write_text("x")
    elif damage == "attributes":
        folder.mkdir()
        (folder / "zarr.json").write_text(
            json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"napari_histoad": {"format": 1}}})
        )
    with pytest.raises(MapError, match="no anomaly map|not an anomaly map"):
        AnomalyMap.open(folder)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4])
def test_measure_regions_measures_even_regions_without_a_tile_centre(tmp_path, rate):
    """A sliver between tile centres is measured by the highest-scoring tile that overlaps it."""
    result = make_map(tmp_path / "a.ome.zarr", shape=(1500, 1500), cell_um=2.0)
    fill(result, range(result.block_count))
    regions = measure_regions(result, rate, min_area_um2=0)
    slivers = [region for region in regions if region.measurements["Area mm²"] < (8e-3) ** 2]
    assert slivers
    for region in regions:
        said = region.measurements
        assert said["Tiles"] >= 1
        assert 0 < said["Mean score"] <= said["Max score"] <= 1
        assert said["Max score"] >= result.calibration.threshold(rate)


def test_finish_job_stores_notes_on_the_scores_of_the_whole_slide(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr", notes=["the focal plane in the middle was taken"])
    assert result.notes == ["the focal plane in the middle was taken"]
    with MapWriter(result) as writer:
        for block in range(result.block_count):
            n = min(BLOCK_TILES, len(result) - block * BLOCK_TILES)
            scores = np.full(n, 5, np.float32)
            if block == 0:
                scores[:2] = np.nan
            writer.add(scored_block(block, scores))
    assert "100% of the tiles score above" in result.notes[1]  # also of a map that is not complete
    finish(result)
    again = AnomalyMap.open(result.path)
    assert again.info.notes == again.notes == result.notes
    assert len(again.notes) == 3
    assert again.notes[2] == "2 tiles could not be read and were not scored"


def test_notes_of_maps_of_earlier_versions_are_computed_from_their_scores(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    fill_evenly(result, lambda n: np.full(n, 5))
    finish(result)
    described = result.path / "zarr.json"
    content = json.loads(described.read_text())
    del content["attributes"]["napari_histoad"]["notes"]
    described.write_text(json.dumps(content))
    old = AnomalyMap.open(result.path)
    assert old.info.notes == []
    assert old.notes == [old.drift_warning]
