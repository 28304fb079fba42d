import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
