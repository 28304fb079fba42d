import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.calibration import LEAST_HELD_OUT, MIN_CALIBRATION_TILES, Calibration
from napari_histoad.errors import TooFewTilesError
from napari_histoad.tiles import TileSet


def test_split_keeps_groups_whole():
    rng = np.random.default_rng(0)
    tiles = TileSet(np.zeros((200, 8, 8, 3), np.uint8), rng.integers(0, 12, 200))
    kept, held_out = tiles.split(0.25, rng)
    assert not set(tiles.groups[kept]) & set(tiles.groups[held_out])
    assert 20 < len(held_out) < 90
    assert len(kept) + len(held_out) == 200
    with pytest.raises(TooFewTilesError, match="second place"):
        TileSet(tiles.images, np.zeros(200, np.int64)).split(0.25, rng)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=40), st.integers(2, 8))
def test_folds_hold_every_tile_out_once_with_its_group(sizes, count):
    groups = np.repeat(np.arange(len(sizes)) * 3, sizes)
    tiles = TileSet(np.zeros((len(groups), 1, 1, 3), np.uint8), groups)
    folds = list(tiles.folds(count, np.random.default_rng(0)))
    assert len(folds) == min(count, len(sizes))
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(groups)))
    for kept, held in folds:
        assert len(kept)
        assert not set(groups[kept]) & set(groups[held])
    loads = [len(held) for _, held in folds]
    assert max(loads) - min(loads) <= max(sizes)


group_sizes = st.lists(st.integers(1, 400), min_size=1, max_size=60)


def _grouped(sizes, seed):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return TileSet(np.zeros((len(groups), 1, 1, 3), np.uint8), groups)


@given(group_sizes.filter(lambda sizes: len(sizes) > 1 and sum(sizes) >= 48), st.integers(0, 99))
def test_divided_allows_calibration_from_48_tiles_on(sizes, seed):
    tiles = _grouped(sizes, seed)
    parted = tiles.divided(LEAST_HELD_OUT)
    kept, held_out = parted.split(0.25, np.random.default_rng(seed), LEAST_HELD_OUT)
    assert sorted([*kept, *held_out]) == list(range(len(tiles)))
    assert not set(parted.groups[kept]) & set(parted.groups[held_out])
    assert len(held_out) >= LEAST_HELD_OUT
    assert len(kept) >= len(held_out)
    worst = np.r_[
        np.zeros(-(-3 * len(held_out) // 4)), np.full(len(held_out) // 4, 1e9)
    ]  # what a robust calibration leaves least of
    assert len(Calibration.from_scores(worst, robust=True).scores) >= MIN_CALIBRATION_TILES
    for kept, held_out in parted.folds(10, np.random.default_rng(seed)):
        assert len(kept) >= LEAST_HELD_OUT
        assert len(held_out)


@given(group_sizes.filter(lambda sizes: sum(sizes) >= 48), st.integers(0, 99))
def test_divided_cuts_only_a_group_with_nearly_all_tiles(sizes, seed):
    tiles = _grouped(sizes, seed)
    parted = tiles.divided(LEAST_HELD_OUT, single=True)
    if sum(sizes) - max(sizes) >= LEAST_HELD_OUT:
        assert parted is tiles
    else:
        assert len(np.unique(parted.groups)) > len(sizes)
        for group in np.unique(parted.groups):  # each is part of one group
            assert len(np.unique(tiles.groups[parted.groups == group])) == 1


def test_divided_cuts_a_group_into_runs_of_neighbours():
    tiles = TileSet(np.zeros((60, 1, 1, 3), np.uint8), np.r_[np.zeros(58, np.int64), 1, 1])
    groups = tiles.divided(LEAST_HELD_OUT).groups
    assert len(np.unique(groups)) == 5
    assert (np.diff(groups) != 0).sum() == 4


def test_divided_refuses_too_few_tiles():
    with pytest.raises(TooFewTilesError, match="only 25 normal tiles; at least 26 are needed"):
        _grouped([10, 15], 0).divided(LEAST_HELD_OUT)
    with pytest.raises(TooFewTilesError, match="one place"):
        _grouped([80], 0).divided(LEAST_HELD_OUT)


@given(st.lists(st.floats(-5, 1e6, width=32), min_size=LEAST_HELD_OUT, max_size=60))
def test_split_holds_out_enough_for_a_robust_calibration(values):
    assert len(Calibration.from_scores(values, robust=True).scores) >= MIN_CALIBRATION_TILES
