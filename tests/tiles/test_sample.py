import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import box

from napari_histoad import find_tissue, open_slide
from napari_histoad.regions import Region
from napari_histoad.tiles import TileGrid, sample_tiles, training_grid
from napari_histoad.tiles._sample import _blocks, _by_region


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    import tifffile

    path = tmp_path_factory.mktemp("slides") / "pink.tif"
    image = np.random.default_rng(0).integers(0, 20, (300, 260, 3)) + np.array([200, 120, 180])
    tifffile.imwrite(path, image.astype(np.uint8), tile=(64, 64), photometric="rgb", metadata=None)
    with open_slide(path, 0.5) as opened:
        yield opened


def share_pixels(mine, others):
    apart = (others[:, None, :2] >= mine[None, :, 2:]) | (others[:, None, 2:] <= mine[None, :, :2])
    return not apart.any(axis=2).all()


def groups_share_pixels(boxes, groups):
    return any(share_pixels(boxes[groups == g], boxes[groups != g]) for g in np.unique(groups))


def test_sample_tiles_groups_neighbours(slide):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=20, mpp=0.5)
    tiles = sample_tiles(slide, grid, 60, np.random.default_rng(0))
    assert tiles.images.shape == (60, 20, 20, 3)
    assert 4 < len(np.unique(tiles.groups)) < 60


def test_sample_tiles_of_different_blocks_share_no_pixel(slide):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=24, mpp=0.5, stride_px=6)
    blocks, whole = _blocks(grid)
    assert len(np.unique(blocks[whole])) >= 4
    assert whole.mean() > 0.3
    assert not groups_share_pixels(grid.boxes[whole], blocks[whole])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    corners=st.lists(st.tuples(st.integers(0, 220), st.integers(0, 200)), min_size=1, max_size=8, unique=True),
    stride=st.sampled_from([6, 12, 24]),
)
def test_sample_tiles_of_different_outlines_share_no_pixel(slide, corners, stride):
    regions = [Region(box(y, x, y + 60, x + 50), "Normal") for y, x in corners]
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=24, mpp=0.5, stride_px=stride)
    groups, usable = _by_region(grid, regions)
    assert not groups_share_pixels(grid.boxes[usable], groups[usable])
    assert usable.any()


def test_sample_tiles_makes_each_outline_a_group(slide):
    regions = [Region(box(y, x, y + 70, x + 70), "Normal") for y in (10, 150) for x in (10, 150)]
    grid = training_grid(slide, find_tissue(slide), tile_px=16, mpp=0.5, regions=regions)
    tiles = sample_tiles(slide, grid, 4000, np.random.default_rng(0), regions)
    assert np.unique(tiles.groups).tolist() == [0, 1, 2, 3]
    assert np.bincount(tiles.groups).min() > 100


def test_training_grid_fills_small_outlines_with_overlapping_tiles(slide):
    tissue = find_tissue(slide)
    small = [Region(box(100, 100, 150, 150), "Normal")]
    assert training_grid(slide, tissue, tile_px=32, mpp=0.5, regions=small).stride_px == 4
    assert training_grid(slide, tissue, tile_px=8, mpp=0.5).stride_px == 8
