import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box as rectangle

from napari_histoad import find_tissue, open_slide
from napari_histoad.errors import EmptyTissueError, MissingMppError, RegionError
from napari_histoad.regions import Region, coverage
from napari_histoad.slide import ArraySlide
from napari_histoad.tiles import TileGrid, TissueMask, _tissue, tissue_mask


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0, 90)] * 2), st.tuples(*[st.floats(1, 60)] * 2))
@settings(deadline=None)
def test_fraction_is_the_covered_area(seed, corner, size):
    mask = np.random.default_rng(seed).random((10, 8)) < 0.5
    tissue = TissueMask(mask, (10.0, 12.5))
    box = np.array([[*corner, corner[0] + size[0], corner[1] + size[1]]])
    fine = mask.repeat(100, 0).repeat(125, 1)  # a tenth of a pixel
    y0, x0, y1, x1 = np.clip(np.rint(box[0] * 10), 0, 1000).astype(int)
    expected = fine[y0:y1, x0:x1].sum() / 100 / (size[0] * size[1])
    assert tissue.fraction(box)[0] == pytest.approx(min(expected, 1), abs=0.25 / min(size) + 0.01)


def test_find_tissue_finds_the_tissue_of_the_sample(sample):
    with open_slide(sample.path) as slide:
        tissue = find_tissue(slide)
    y = (np.arange(tissue.mask.shape[0]) + 0.5) * tissue.scale_yx[0]
    x = (np.arange(tissue.mask.shape[1]) + 0.5) * tissue.scale_yx[1]
    drawn = sample.plan.tissue(y, x) > 0
    overlap = (tissue.mask & drawn).sum() / (tissue.mask | drawn).sum()
    assert overlap > 0.88


def test_find_tissue_leaves_out_ink(sample):
    with open_slide(sample.path) as slide:
        tissue = find_tissue(slide)
        view = slide.overview(tissue.mask.shape).astype(int)
    ink = (view[..., 2] - view[..., 0] > 60) & (view[..., 0] < 150)
    assert ink.sum() > 20
    assert not (tissue.mask & ink).any()


def test_find_tissue_needs_little_memory_beside_the_overview(monkeypatch):
    rng = np.random.default_rng(0)
    glass = rng.integers(238, 248, (2000, 1500, 3)).astype(np.uint8)
    glass[300:1200, 200:900] = rng.integers((150, 60, 140), (210, 150, 200), (900, 700, 3))
    tracemalloc.start()
    mask = _tissue.tissue_of(glass, 8.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25 * mask.size  # bytes; with the densities of the whole picture at once it were 32
    monkeypatch.setattr(_tissue, "_STRIP_ROWS", 10_000)
    assert np.array_equal(mask, _tissue.tissue_of(glass, 8.0))
    assert 0.1 < mask.mean() < 0.3


def test_find_tissue_refuses_empty_glass(write_tiff):
    glass = np.full((512, 512, 3), 243, np.uint8)
    with open_slide(write_tiff(glass)) as slide, pytest.raises(EmptyTissueError, match="no tissue"):
        find_tissue(slide)


def test_find_tissue_needs_the_resolution(write_tiff):
    with open_slide(write_tiff(np.zeros((64, 64, 3), np.uint8), mpp=None)) as slide, pytest.raises(MissingMppError):
        find_tissue(slide)


def test_regions_as_tissue_covers_the_outlines():
    """Every tile that outlines cover by half is on tissue; far from them nothing is."""
    slide = ArraySlide([np.full((2000, 3000, 3), 240, np.uint8)], "glass", mpp_yx=(0.5, 0.5))
    ring = rectangle(500, 1000, 1500, 2000).difference(rectangle(800, 1300, 1200, 1700))
    regions = [Region(ring), Region(rectangle(1900, 2900, 9000, 1e9)), Region(rectangle(3, 3, 5, 5))]
    tissue = tissue_mask(slide, "regions", regions)
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=64, mpp=0.5)
    fraction, cover = tissue.fraction(grid.boxes), coverage(grid.boxes, regions)
    assert fraction[cover >= 0.5].min() > 0.1
    assert fraction[coverage(grid.boxes + np.array([-64, -64, 64, 64]), regions) == 0].max() < 1e-9
    with pytest.raises(RegionError, match="no outline is on"):
        tissue_mask(slide, "regions", [Region(rectangle(5000, 5000, 6000, 6000))])
