"""Choosing and reading training tiles on the tissue and in the outlines of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from napari_histoad.jobs import Progress, run
from napari_histoad.regions import coverage
from napari_histoad.tiles._grid import TileGrid
from napari_histoad.tiles._loader import TileLoader
from napari_histoad.tiles._tile_set import TilePlace, TileSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.jobs import Job
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide
    from napari_histoad.tiles._tissue import TissueMask

_BLOCKS_PER_AXIS = 16
_WELL_FED = 1000
_MIN_COVER = 0.5


def training_grid(
    slide: Slide, tissue: TissueMask, *, tile_px: int, mpp: float, regions: Sequence[Region] | None = None
) -> TileGrid:
    """Return the grid of training tiles: those that a map would score and, if there are outlines, that are half inside one.

    It includes tiles on the edge of the tissue: a detector trained without them calls every edge anomalous. In a small outline
    or piece of tissue tiles overlap, up to eight-fold per axis, so that there are enough.

    Parameters
    ----------
    slide : Slide
    tissue : TissueMask
    tile_px : int
        Side of a tile in pixels.
    mpp : float
        µm per tile pixel.
    regions : sequence of Region, optional
        Default: all tissue.
    """
    for overlap in (1, 2, 4, 8):
        grid = TileGrid.cover(slide.shape, slide.require_mpp(), tile_px=tile_px, mpp=mpp, stride_px=tile_px // overlap)
        grid = grid.on_tissue(tissue)
        if regions is not None:
            grid = grid.subset(coverage(grid.boxes, regions) >= _MIN_COVER)
        if len(grid) >= _WELL_FED:
            break
    return grid


def sample_tiles(
    slide: Slide, grid: TileGrid, max_tiles: int, rng: np.random.Generator, regions: Sequence[Region] | None = None
) -> TileSet:
    """Read at most ``max_tiles`` random tiles of a grid into memory; see `sample_tiles_job`."""
    return run(sample_tiles_job(slide, grid, max_tiles, rng, regions))


def sample_tiles_job(
    slide: Slide, grid: TileGrid, max_tiles: int, rng: np.random.Generator, regions: Sequence[Region] | None = None
) -> Job[TileSet]:
    """Read at most ``max_tiles`` random tiles of a grid into memory.

    Tiles of different groups share no pixels, so that no pixel of held-out tiles is trained on: tiles that extend into another
    group are left out.

    Parameters
    ----------
    slide : Slide
    grid : TileGrid
    max_tiles : int
    rng : Generator
        Chooses the tiles.
    regions : sequence of Region, optional
        Each is a group. Default: groups are spatial blocks, at most 16 x 16 over the extent of the grid.
    """
    groups, usable = _blocks(grid) if regions is None else _by_region(grid, regions)
    index = np.flatnonzero(usable)
    if len(index) > max_tiles:
        index = np.sort(rng.choice(index, max_tiles, replace=False))
    images = np.empty((len(index), grid.tile_px, grid.tile_px, 3), np.uint8)
    good = np.ones(len(index), bool)
    done = 0
    yield Progress("Reading tiles", 0, len(index), path=str(slide.path))
    for batch in TileLoader(slide, grid, index=index):
        n = len(batch.index)
        images[done : done + n] = batch.images
        good[done : done + n] = ~batch.failed
        done += n
        yield Progress("Reading tiles", done, len(index), path=str(slide.path))
    numbers = np.unique(groups[index], return_inverse=True)[1].astype(np.int64)
    name = slide.file_name
    places = tuple(TilePlace(name, tuple(box)) for box in grid.boxes[index[good]].tolist())
    grouping = "blocks of tissue" if regions is None else "outlines"
    return TileSet(images[good], numbers[good], (name,), places, grouping, np.zeros(int(good.sum()), np.int64))


def _blocks(grid: TileGrid) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the spatial block of each tile, and whether the tile may be used."""
    corner = grid.origins - grid.origins.min(axis=0, initial=0) if len(grid) else grid.origins
    side = max(float(corner.max(initial=0)) / _BLOCKS_PER_AXIS, 2 * grid.tile_l0)
    first, last = (corner // side).astype(np.int64), ((corner + grid.tile_l0 - 1) // side).astype(np.int64)
    apart = grid.stride_px == grid.tile_px
    whole = np.ones(len(grid), bool) if apart else (first == last).all(axis=1)
    return first[:, 0] * 4096 + first[:, 1], whole


def _by_region(grid: TileGrid, regions: Sequence[Region]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the region that covers most of each tile, and whether the tile may be used."""
    groups = np.stack([coverage(grid.boxes, [region]) for region in regions]).argmax(axis=0)
    # Neighbours without overlap still share up to a pixel if a tile is not a whole number of level-0 pixels.
    pairs = cKDTree(grid.origins).query_pairs(grid.tile_l0 - 1, p=np.inf, output_type="ndarray")
    usable = np.ones(len(grid), bool)
    usable[pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]], 1]] = False
    return groups, usable
