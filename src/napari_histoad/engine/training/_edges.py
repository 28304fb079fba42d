"""Edges of tissue in training tiles: outlines seldom reach them, and a detector that saw none calls all of them anomalous."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from napari_histoad.tiles import TileGrid, TileLoader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.slide import Slide
    from napari_histoad.tiles import TileSet, TissueMask

_SHARE = 0.1
"""With twice as many, whole slides lie below the median of the calibration and look as if they came from another scanner."""
_WHOLE = 0.9
"""Tissue fraction above which a tile counts as one without an edge."""
_GLASS_TILES = 32
_SHIFT, _WAVE = 0.35, 0.08
"""Greatest distance of an edge from the middle of the tile, and deviation of its waves, as shares of the tile's side."""
_SOFT_PX = 2.0


def with_edges(tiles: TileSet, slide: Slide, tissue: TissueMask, mpp: float, rng: np.random.Generator) -> tuple[TileSet, int]:
    """Cover a part of some tiles with glass of the slide, so that a tenth of the tiles show an edge of the tissue.

    Tiles that show one already count. Nothing is changed on a slide that has no tile of glass.

    Parameters
    ----------
    tiles : TileSet
        Read from the slide, with their places.
    slide : Slide
        As the detector sees it.
    mpp : float
        µm per tile pixel.

    Returns
    -------
    tiles : TileSet
    changed : int
        Number of tiles that were changed.
    """
    fraction = tissue.fraction(np.array([place.box for place in tiles.places], np.float64).reshape(-1, 4))
    whole = np.flatnonzero(fraction >= _WHOLE)
    wanted = round(_SHARE * len(tiles)) - (len(tiles) - len(whole))
    glass = _glass(slide, tissue, tiles.images.shape[1], mpp) if wanted > 0 else tiles.images[:0]
    if not len(glass):
        return tiles, 0
    images = tiles.images.copy()
    for row in rng.permutation(whole)[:wanted]:
        images[row] = _covered(images[row], glass[rng.integers(len(glass))], rng)
    return replace(tiles, images=images), min(wanted, len(whole))


def _glass(slide: Slide, tissue: TissueMask, tile_px: int, mpp: float) -> NDArray[np.uint8]:
    """Return the plain half of some tiles without tissue (N, S, S, 3), of the usual colour: others may show pen or dust."""
    grid = TileGrid.cover(slide.shape, slide.require_mpp(), tile_px=tile_px, mpp=mpp)
    empty = np.flatnonzero(tissue.fraction(grid.boxes) == 0)
    index = empty[:: max(1, len(empty) // _GLASS_TILES)][:_GLASS_TILES]
    batches = [batch.images[~batch.failed].copy() for batch in TileLoader(slide, grid, index=index)] if len(index) else []
    found = np.concatenate([np.empty((0, tile_px, tile_px, 3), np.uint8), *batches])
    if not len(found):
        return found
    colours = found.mean(axis=(1, 2))
    unlike = np.abs(colours - np.median(colours, axis=0)).max(axis=1) + found.std(axis=(1, 2, 3))
    chosen: NDArray[np.uint8] = found[unlike.argsort(kind="stable")[: (len(found) + 1) // 2]]
    return chosen


def _covered(image: NDArray[np.uint8], glass: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a tile (S, S, 3) of which glass covers what lies beyond a wavy line in a random direction."""
    side = len(image)
    y, x = np.mgrid[:side, :side] / side - 0.5
    angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(-_SHIFT, _SHIFT)
    wave = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 12)
    beyond = np.cos(angle) * x + np.sin(angle) * y + wave * (_WAVE / wave.std()) - shift
    cover = 1 / (1 + np.exp(-beyond * side / _SOFT_PX))[..., None]
    joined: NDArray[np.uint8] = np.rint(image * (1 - cover) + glass * cover).astype(np.uint8)
    return joined
