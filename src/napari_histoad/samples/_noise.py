"""Random numbers that depend only on the position, so that each block of a slide can be drawn independently."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_A, _B, _C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(iy: NDArray[np.int64], ix: NDArray[np.int64], salt: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each lattice point: splitmix64 of its coordinates (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = iy.astype(np.uint64) * _A ^ (ix.astype(np.uint64) + np.uint64(salt) * _B) * _C
        for shift, factor in ((30, _B), (27, _C)):
            z = (z ^ (z >> np.uint64(shift))) * factor
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def value_noise(y: NDArray[np.float64], x: NDArray[np.float64], scale: float, salt: int) -> NDArray[np.float32]:
    """Return smooth noise in [0, 1] on the grid of the axes ``y`` (H,) and ``x`` (W,), varying over ``scale``."""
    (iy, wy), (ix, wx) = (_lattice(axis, scale) for axis in (y, x))
    ys, xs = np.arange(iy[0], iy[-1] + 2), np.arange(ix[0], ix[-1] + 2)
    corners = uniform(ys[:, None], xs[None, :], salt).astype(np.float32)
    rows, columns = iy - iy[0], ix - ix[0]
    along_x = corners[:, columns] * (1 - wx) + corners[:, columns + 1] * wx
    noise: NDArray[np.float32] = along_x[rows] * (1 - wy[:, None]) + along_x[rows + 1] * wy[:, None]
    return noise


def _lattice(axis: NDArray[np.float64], scale: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    cell = np.floor(axis / scale).astype(np.int64)
    t = (axis / scale - cell).astype(np.float32)
    return cell, t * t * (3 - 2 * t)
