"""The calibration of the anomaly map, from calibration tiles that overlap as the tiles of a map do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.calibration import Calibration
from napari_histoad.maps import MapGeometry, blend_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.calibration import CalibrationBasis
    from napari_histoad.tiles import TileSet

_GEOMETRY = MapGeometry((0, 0), (0, 0), 1.0, 8, 4, 1)
"""Of tiles that overlap by half; cells are coarser than those of maps, as neighbouring ones are nearly equal."""
_LEAST_CELLS, _MOST_CELLS = 500, 4000


def field_calibration(tiles: TileSet, scores: NDArray[np.float32], basis: CalibrationBasis) -> Calibration | None:
    """Return the calibration of a map with a stride of half a tile, see `Calibration.field`.

    Its scores are those of cells that four of the tiles cover, blended as in a map. Tiles overlap unless the outlines are large,
    see `training_grid`.

    Parameters
    ----------
    tiles : TileSet
        The calibration tiles.
    scores : (N,) float32
        Of these tiles, each by a detector that was not trained on it.
    basis : CalibrationBasis

    Returns
    -------
    Calibration or None
        None if fewer than 500 cells are covered, or cells in fewer than half of the groups.
    """
    boxes = [place.box for place in tiles.places]
    if not boxes or None in boxes:
        return None
    corners, ids = np.array(boxes), np.unique(tiles.groups)
    found = [_blended(corners[tiles.groups == group], scores[tiles.groups == group]) for group in ids]
    counts, values = [len(cells) for cells in found], np.concatenate(found)
    if len(values) < _LEAST_CELLS or 2 * np.count_nonzero(counts) < len(ids):
        return None
    first = [int(np.flatnonzero(tiles.groups == group)[0]) for group in ids]
    some = np.linspace(0, len(values) - 1, min(len(values), _MOST_CELLS)).astype(int)
    groups, slides = (np.repeat(of[first], counts)[some] for of in (tiles.groups, tiles.slide_of))
    return Calibration.from_scores(values[some], groups=groups, slides=slides, basis=basis)


def _blended(corners: NDArray[np.float64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the scores of the cells that four tiles of a group cover, (n,); boxes (y0, x0, y1, x1) are (N, 4)."""
    origins = np.rint(corners[:, :2] - corners[:, :2].min(axis=0)).astype(np.int64)
    step = int(np.gcd.reduce(origins, axis=None))
    overlap = round(float(corners[0, 2] - corners[0, 0]) / step) if step else 1
    found = [np.empty(0, np.float32)]
    if overlap % 2:
        return found[0]
    lines, every = origins // step, overlap // 2
    for part in np.ndindex(every, every):  # grids with a stride of half a tile, which lie between each other
        mine = (lines % every == part).all(axis=1)
        if not mine.any():
            continue
        grid = lines[mine] // every
        values = np.full(grid.max(axis=0) + 1, np.nan, np.float32)
        values[tuple(grid.T)] = scores[mine]
        total, weight = blend_grid(values, _GEOMETRY.window(), _GEOMETRY.cells_per_step)
        side, there = _GEOMETRY.cells_per_step, ~np.isnan(values)
        full = there[:-1, :-1] & there[:-1, 1:] & there[1:, :-1] & there[1:, 1:]
        covered = np.pad(full, 1).repeat(side, axis=0).repeat(side, axis=1)
        found.append((total[covered] / weight[covered]).astype(np.float32))
    return np.concatenate(found)
