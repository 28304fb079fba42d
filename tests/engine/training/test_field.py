"""The calibration of the anomaly map by calibration tiles that overlap."""

import numpy as np
import pytest

from napari_histoad import load_detector, map_slide, train
from napari_histoad.calibration import CalibrationBasis
from napari_histoad.detectors import save_detector
from napari_histoad.engine.training._field import field_calibration
from napari_histoad.tiles import TileSet
from napari_histoad.tiles._tile_set import TilePlace

BASIS = CalibrationBasis("outlines")


def _tiles(side, step, rows=20, columns=25, groups=2, keep=None):
    """Return tiles on a grid; each group is a grid of its own."""
    y, x = (v.ravel() * step for v in np.mgrid[:rows, :columns])
    places, group = [], []
    for number in range(groups):
        for a, b in zip(y + 7, x + 10_000 * number, strict=True):
            places.append(TilePlace("a.tif", (float(a), float(b), float(a + side), float(b + side))))
            group.append(number)
    tiles = TileSet(np.zeros((len(places), 2, 2, 3), np.uint8), np.array(group), ("a.tif",), tuple(places), "outlines")
    return tiles if keep is None else tiles.subset(keep)


@pytest.mark.parametrize("step", [64, 32])
def test_cells_of_independent_tiles_vary_as_means_of_four_do(step):
    tiles = _tiles(128, step)
    scores = np.random.default_rng(0).normal(size=len(tiles)).astype(np.float32)
    found = field_calibration(tiles, scores, BASIS)
    assert 0.5 < found.scores.std() < 0.8
    assert found.threshold(0.05) < 0.8 * np.quantile(scores, 0.95)
    assert abs(found.scores.mean()) < 0.1
    assert found.basis.groups == 2


def test_cells_of_equal_tiles_have_their_score_and_stay_in_their_group():
    tiles = _tiles(128, 64)
    found = field_calibration(tiles, tiles.groups.astype(np.float32), BASIS)
    assert found.scores == pytest.approx(found.groups)


def test_tiles_that_do_not_overlap_or_have_no_place_give_none():
    scores = np.zeros(1000, np.float32)
    assert field_calibration(_tiles(64, 64), scores, BASIS) is None
    tiles = _tiles(128, 64)
    assert field_calibration(TileSet(tiles.images, tiles.groups), scores, BASIS) is None
    scattered = _tiles(128, 64, keep=np.arange(0, 1000, 5))
    assert field_calibration(scattered, scores[:200], BASIS) is None


def test_a_detector_trained_on_outlines_sets_the_threshold_of_maps_with_its_overlap(sample, tmp_path):
    path = tmp_path / "d.safetensors"
    train(sample.path, path, normal=sample.plan.normal, detector="colour", tile_px=64, device="cpu")
    detector = load_detector(path)
    field = detector.calibration.field
    assert len(field.scores) >= 500
    half, whole = (map_slide(sample.path, tmp_path / str(s), model=path, stride_px=s, device="cpu") for s in (32, 64))
    assert np.array_equal(half.calibration.field.scores, field.scores)
    assert "area of normal tissue that regions cover" in half.region_note
    assert whole.calibration.field is None
    assert whole.region_note == ""
    again = load_detector(save_detector(detector, tmp_path / "again.safetensors"))
    assert np.array_equal(again.calibration.field.groups, field.groups)
