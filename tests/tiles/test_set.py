import numpy as np
import pytest

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
