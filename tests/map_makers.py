"""Maps of known content, without a slide or a detector."""

import re
from pathlib import Path

import numpy as np

from napari_histoad.calibration import Calibration
from napari_histoad.jobs import run
from napari_histoad.maps import BLOCK_TILES, MapGeometry, MapInfo, MapWriter, ScoredTiles, create_map, finish_job
from napari_histoad.tiles import TileGrid, TissueMask


def make_map(
    folder,
    shape=(2000, 1700),
    tile_px=64,
    stride_px=32,
    slide_mpp=0.5,
    mpp=0.5,
    resume=True,
    cell_um=8.0,
    tiles=slice(None),
    calibration=None,
    **recorded,
):
    grid = TileGrid.cover(shape, slide_mpp, tile_px=tile_px, mpp=mpp, stride_px=stride_px)
    geometry = MapGeometry.of(grid, shape, cell_um)
    grid = grid.subset(np.arange(len(grid))[tiles])
    info = MapInfo(
        slide="a.tif", slide_shape=shape, slide_mpp=slide_mpp, tile_px=tile_px, stride_px=stride_px, mpp=grid.mpp,
        tile_l0=grid.tile_l0, step_l0=geometry.step_l0, cell_l0=geometry.cell_l0, cells_per_tile=geometry.cells_per_tile,
        cells_per_step=geometry.cells_per_step, tiles=len(grid), detector="colour", detector_settings={}, detector_id="x",
        trained_on=["t"], calibration_note="n", version="0", **recorded,
    )  # fmt: skip
    tissue = TissueMask(np.ones((20, 17), bool), (shape[0] / 20, shape[1] / 17))
    calibration = calibration or Calibration.from_scores(np.linspace(0, 1, 99))
    return create_map(folder, info, origins=grid.origins, tissue=tissue, calibration=calibration, resume=resume)


def block_values(result, block, seed=0):
    n = min(BLOCK_TILES, len(result) - block * BLOCK_TILES)
    rng = np.random.default_rng([seed, block])
    c = result.geometry.cells_per_tile
    return rng.random(n, dtype=np.float32), rng.random((n, c, c), dtype=np.float32)


def scored_block(block, scores, error_cells=None):
    """Return the scores of a block as they come to the writer; NaN: the tile could not be read."""
    index = block * BLOCK_TILES + np.arange(len(scores))
    return ScoredTiles(index, scores, error_cells, None, np.isnan(scores))


def fill(result, blocks, seed=0, *, error_maps=True):
    with MapWriter(result) as writer:
        for block in blocks:
            scores, cells = block_values(result, block, seed)
            writer.add(scored_block(block, scores, cells if error_maps else None))


def finish(result):
    """Write the pyramids and labels of a filled map and mark it as complete."""
    run(finish_job(result))


def fill_evenly(result, values):
    """Give the tiles of every block the same scores, without error maps."""
    with MapWriter(result) as writer:
        for block in range(result.block_count):
            n = min(BLOCK_TILES, len(result) - block * BLOCK_TILES)
            writer.add(scored_block(block, values(n).astype(np.float32)))


def bytes_of(folder):
    """Return the files of a map, but for where its slide lies as seen from it."""
    there = {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    described = there.get(Path("zarr.json"), b"")
    return there | {Path("zarr.json"): re.sub(rb'"slide_relative": "[^"]*"', b"", described)}
