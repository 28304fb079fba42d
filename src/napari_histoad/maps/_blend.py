"""Overlapping tiles laid over each other with smooth weights, so that no seam shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def blend_grid(
    values: NDArray[np.float32], window: NDArray[np.float32], step: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Add tiles on a regular grid, weighted, all at once; return sums and weights (H, W), whose ratio is the blended value.

    ``values`` are (n, m), one per tile, or (n, m, c, c), one per cell, NaN where there is no tile; ``window`` (c, c) are the
    weights, see `MapGeometry.window`; ``step`` is the number of cells between neighbouring tiles. A cell is summed up in the same
    order whatever part of the grid is given, so that parts equal the whole to the bit.
    """
    (n, m), c = values.shape[:2], len(window)
    reach = -(-c // step)  # steps that a tile reaches over
    side = reach * step
    weights = np.zeros((side, side), np.float32)
    weights[:c, :c] = window
    cells = np.zeros((n, m, side, side), np.float32) if values.ndim > 2 else values[:, :, None, None]
    if values.ndim > 2:
        cells[:, :, :c, :c] = values
    there = ~np.isnan(cells[:, :, :1, :1])
    cells, there = np.where(there, cells, np.float32(0)), there.astype(np.float32)
    total, weight = np.zeros((2, n + reach - 1, step, m + reach - 1, step), np.float32)
    for a in range(reach):
        for b in range(reach):
            part = slice(a * step, (a + 1) * step), slice(b * step, (b + 1) * step)
            w = weights[part][:, None]
            seen = (slice(a, a + n), slice(None), slice(b, b + m))
            total[seen] += (cells[..., *part] if values.ndim > 2 else cells).transpose(0, 2, 1, 3) * w
            weight[seen] += there.transpose(0, 2, 1, 3) * w
    shape = (n + reach - 1) * step, (m + reach - 1) * step
    return total.reshape(shape), weight.reshape(shape)
