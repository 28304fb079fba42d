import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from napari_histoad import open_slide
from napari_histoad.errors import SlideError
from napari_histoad.tiles import TileGrid, TileLoader


@pytest.fixture
def slide(write_tiff):
    image = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    with open_slide(write_tiff(image)) as opened:
        yield opened


@pytest.mark.parametrize("batch", [1, 4, 7, 100])
def test_loader_yields_the_pixels_of_tiles_in_order(slide, batch):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=50, mpp=0.5)
    seen = []
    for part in TileLoader(slide, grid, batch=batch):
        for row, image in zip(part.index, part.images, strict=True):
            y, x = (int(v) for v in grid.origins[row])
            inside = slide.read(0, y, x, 50, 50)[: slide.shape[0] - y, : slide.shape[1] - x]
            beyond = [(0, 50 - n) for n in inside.shape[:2]]
            assert np.array_equal(image, np.pad(inside, (*beyond, (0, 0)), mode="symmetric"))
        seen += part.index.tolist()
    assert seen == list(range(len(grid)))


def test_loader_mirrors_a_slide_smaller_than_a_tile(write_tiff):
    image = np.random.default_rng(0).integers(0, 256, (30, 70, 3), np.uint8)
    with open_slide(write_tiff(image)) as slide:
        (part,) = TileLoader(slide, TileGrid.cover(slide.shape, 0.5, tile_px=160, mpp=0.5))
        assert np.array_equal(part.images[0], np.pad(image, ((0, 130), (0, 90), (0, 0)), mode="symmetric"))


def test_loader_stopped_early_ends_its_threads(slide):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=20, mpp=0.5)
    batches = iter(TileLoader(slide, grid, batch=2))
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_loader_marks_tiles_that_cannot_be_decoded_and_makes_them_white(slide, monkeypatch):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=50, mpp=0.5)
    real = type(slide).read_scaled

    def broken(self, y, x, *rest, **options):
        if (y, x) == (50, 50):
            raise SlideError("broken tile")
        return real(self, y, x, *rest, **options)

    monkeypatch.setattr(type(slide), "read_scaled", broken)
    loader = TileLoader(slide, grid, batch=5)
    failed = {int(i): img.mean() for b in loader for i, img, f in zip(b.index, b.images.copy(), b.failed, strict=True) if f}
    assert failed == {7: 255.0}
    assert len(loader.errors) == 1


@pytest.mark.parametrize("mpp", [0.5, 0.8])
@pytest.mark.parametrize("stride", [10, 25, 49, 50])
@pytest.mark.parametrize("shuffled", [False, True])
def test_loader_runs_equal_tiles_read_alone(slide, mpp, stride, shuffled):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=50, mpp=mpp, stride_px=stride)
    index = np.arange(len(grid))
    if shuffled:
        np.random.default_rng(0).shuffle(index)
    seen = 0
    for part in TileLoader(slide, grid, batch=16, index=index):
        for row, image in zip(part.index, part.images, strict=True):
            y, x = (int(v) for v in grid.origins[row])
            if max(y + grid.tile_l0 - slide.shape[0], x + grid.tile_l0 - slide.shape[1]) <= 0:
                assert np.array_equal(image, slide.read_scaled(y, x, grid.tile_l0, grid.tile_l0, (50, 50)))
                seen += 1
    assert seen > 5


@pytest.mark.parametrize("stride", [20, 50])
@pytest.mark.parametrize("batch", [3, 16])
def test_loader_decode_equals_iteration(slide, stride, batch):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=50, mpp=0.5, stride_px=stride)
    loader = TileLoader(slide, grid, batch=batch)
    with ThreadPoolExecutor(3) as pool:
        apart = list(pool.map(lambda part: copied(loader.decode(part)), loader.undecoded()))
    for one, other in zip(apart, map(copied, TileLoader(slide, grid, batch=batch)), strict=True):
        for name in ("images", "index", "failed"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def copied(batch):
    return replace(batch, images=batch.images.copy())


def test_loader_fails_only_tiles_with_damaged_pixels(slide, monkeypatch):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=50, mpp=0.5, stride_px=25)
    hole_y, hole_x = 110, 130
    real = type(slide)._read_inside

    def holed(self, source, y, x, out):
        if y <= hole_y < y + out.shape[0] and x <= hole_x < x + out.shape[1]:
            raise SlideError("a hole")
        real(self, source, y, x, out)

    monkeypatch.setattr(type(slide), "_read_inside", holed)
    loader = TileLoader(slide, grid, batch=20)
    failed = sorted(int(i) for b in loader for i, f in zip(b.index, b.failed, strict=True) if f)
    holds = ((grid.origins <= (hole_y, hole_x)) & (grid.origins + 50 > (hole_y, hole_x))).all(1)
    assert failed == np.flatnonzero(holds).tolist()
    assert len(failed) == len(loader.errors) == 4
