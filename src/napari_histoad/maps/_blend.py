"""Overlapping tiles laid over each other with smooth weights, so that no seam shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add_tile", "blend_grid"]


def add_tile(
    total: NDArray[np.float32],
    weight: NDArray[np.float32],
    values: NDArray[np.float32],
    window: NDArray[np.float32],
    y: int,
    x: int,
) -> None:
    """Add a tile's cells, weighted, at (y, x); what lies outside is cut off.

    Parameters
    ----------
    total, weight : (H, W) float32
        Sums so far; the blended value is their ratio.
    values : (c, c) float32
    window : (c, c) float32
        Weights, see `MapGeometry.window`.
    y, x : int
        May be negative.
    """
    c = len(window)
    a0, b0, a1, b1 = max(y, 0), max(x, 0), min(y + c, total.shape[0]), min(x + c, total.shape[1])
    inside = (slice(a0 - y, a1 - y), slice(b0 - x, b1 - x))
    w = window[inside]
    total[a0:a1, b0:b1] += w * values[inside]
    weight[a0:a1, b0:b1] += w


def blend_grid(
    values: NDArray[np.float32], window: NDArray[np.float32], step: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Add tiles of one value each that lie on a regular grid, all at once.

    A cell is summed up in the same order whatever part of the grid is given, so that parts equal the whole to the bit.

    Parameters
    ----------
    values : (n, m) float32
        One per tile; NaN where there is none.
    window : (c, c) float32
        Weights, see `MapGeometry.window`.
    step : int
        Cells between neighbouring tiles.

    Returns
    -------
    total, weight : (H, W) float32
        The sums, from the first cell of the first tile on; the blended value is their ratio.
    """
    (n, m), c = values.shape, len(window)
    reach = -(-c // step)  # steps that a tile reaches over
    weights = np.zeros((reach * step, reach * step), np.float32)
    weights[:c, :c] = window
    there = ~np.isnan(values)
    parts = np.where(there, values, np.float32(0)), there.astype(np.float32)
    sums = np.zeros((2, n + reach - 1, step, m + reach - 1, step), np.float32)
    for a in range(reach):
        for b in range(reach):
            w = weights[a * step : (a + 1) * step, b * step : (b + 1) * step]
            for out, part in zip(sums, parts, strict=True):
                out[a : a + n, :, b : b + m] += part[:, None, :, None] * w[:, None]
    total, weight = sums.reshape(2, (n + reach - 1) * step, (m + reach - 1) * step)
    return total, weight
