"""Overlapping tiles laid over each other with smooth weights, so that no seam shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["add_tile"]


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
