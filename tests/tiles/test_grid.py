import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_histoad.errors import SettingsError
from napari_histoad.tiles import TileGrid, TissueMask, _grid


@st.composite
def grids(draw):
    shape = (draw(st.integers(50, 3000)), draw(st.integers(50, 3000)))
    slide_mpp = draw(st.floats(0.2, 1.0))
    tile_px = draw(st.sampled_from([32, 64, 100, 256]))
    stride_px = draw(st.integers(max(1, tile_px // 3), tile_px))
    mpp = slide_mpp * draw(st.floats(1.0, 4.0099))
    return shape, TileGrid.cover(shape, slide_mpp, tile_px=tile_px, mpp=mpp, stride_px=stride_px)


@given(grids())
@settings(max_examples=60, deadline=None)
def test_cover_has_a_tile_for_every_pixel(case):
    shape, grid = case
    for axis in (0, 1):
        starts = np.unique(grid.origins[:, axis])
        assert starts[0] == 0
        assert (np.diff(starts) <= grid.tile_l0).all()
        assert starts[-1] + grid.tile_l0 >= shape[axis]


@given(grids(), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_on_tissue_keeps_a_tile_for_every_tissue_pixel(case, seed):
    shape, grid = case
    mask = np.random.default_rng(seed).random((23, 17)) < 0.1
    tissue = TissueMask(mask, (shape[0] / 23, shape[1] / 17))
    boxes = grid.on_tissue(tissue, min_fraction=0.0).boxes
    for y, x in zip(*np.nonzero(mask), strict=True):
        cy, cx = (y + 0.5) * tissue.scale_yx[0], (x + 0.5) * tissue.scale_yx[1]
        assert ((boxes[:, 0] <= cy) & (cy <= boxes[:, 2]) & (boxes[:, 1] <= cx) & (cx <= boxes[:, 3])).any()


def test_on_tissue_in_pieces_equals_all_at_once(monkeypatch):
    mask = np.random.default_rng(0).random((23, 17)) < 0.1
    tissue, grid = TissueMask(mask, (100.0, 100.0)), TileGrid.cover((2300, 1700), 0.5, tile_px=64, mpp=0.5, stride_px=20)
    whole = grid.on_tissue(tissue).origins
    monkeypatch.setattr(_grid, "_AT_ONCE", 1000)
    assert 1000 < len(whole) < len(grid)
    assert np.array_equal(grid.on_tissue(tissue).origins, whole)


def test_cover_uses_the_slides_own_mpp_if_it_is_near():
    grid = TileGrid.cover((1000, 1000), 0.499, tile_px=256, mpp=0.5)
    assert grid.mpp == 0.499
    assert grid.tile_l0 == 256


def test_cover_refuses_an_mpp_finer_than_the_slide():
    with pytest.raises(SettingsError, match="finer than the slide"):
        TileGrid.cover((1000, 1000), 0.5, tile_px=256, mpp=0.25)


@pytest.mark.parametrize("stride", [0, 257])
def test_cover_refuses_strides_that_leave_gaps(stride):
    with pytest.raises(SettingsError, match="choose 1 to 256"):
        TileGrid.cover((1000, 1000), 0.5, tile_px=256, mpp=0.5, stride_px=stride)
