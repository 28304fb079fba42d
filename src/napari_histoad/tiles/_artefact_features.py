"""Features of small squares of a picture that tell artefacts of preparation and scanning from tissue.

Each square is described by means over its pixels: energies of four bands of detail (focus: blur removes fine detail and leaves
coarse), optical density and its spread, light that no mixture of haematoxylin and eosin absorbs (ink), grey, black and empty
pixels, and the strength and direction of edges (folds, fibres, the edge of the cover slip). The same means over the 3 x 3 and the
5 x 5 squares around it say what it is part of, and what it differs from.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SQUARE_PX = 32
"""Side of a square."""

REACH = 2
"""Squares on each side of a square that its features depend on."""

_BOXES = (3, 7, 15, 31)  # widths of the box filters between whose results the bands of detail lie; fast, whatever the width
_PARTS = np.cumsum([4, 4, 3, 3, 2, 2, 2, 3, 3])  # where the parts of the means of `_maps` begin, see `_describe`
_FAINT = 1e-6
_DENSITY = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
_STAIN_RED, _STAIN_BLUE = 1.05, 0.90  # red and blue absorb at most so much of what green does, in both stains


def square_features(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the features of the squares of a picture.

    Parameters
    ----------
    image : (H, W, 3) uint8
        Brightfield, at least 32 px on each side; pixels right of and below the last whole square are not used.

    Returns
    -------
    (H // 32, W // 32, F) float32
    """
    height, width = (n // SQUARE_PX for n in image.shape[:2])
    inside = image[: height * SQUARE_PX, : width * SQUARE_PX]
    means = np.stack([_means(values, height, width) for values in _maps(inside)], axis=-1)
    return np.concatenate([_describe(_around(means, reach)) for reach in range(REACH + 1)], axis=-1).astype(np.float32)


def _maps(image: NDArray[np.uint8]) -> Iterator[NDArray[np.float32] | NDArray[np.bool_]]:
    """Yield the maps (H, W) whose means describe squares, one after the other, as together they need much memory."""
    red, green, blue = (_DENSITY[image[..., c]] for c in range(3))
    grey = (red + green + blue) / 3
    blurred = [grey, *(ndimage.uniform_filter(grey, box) for box in _BOXES)]
    energies = [np.square(finer - coarser) for finer, coarser in itertools.pairwise(blurred)]
    yield from energies
    yield from map(np.square, energies)
    for power in (1, 2):
        yield from (channel**power for channel in (red, green, blue))
    ink = np.maximum(red - _STAIN_RED * green, 0), np.maximum(blue - _STAIN_BLUE * green, 0)
    for power in (1, 2):
        yield from (amount**power for amount in ink)
    least = np.minimum(red, blue)
    chroma = green - least
    yield from (chroma, chroma**2)
    yield np.minimum(least, green) > 0.65
    yield grey < 0.06
    yield (grey > 0.1) & (np.abs(chroma) < 0.15 * grey)
    for smooth in (blurred[1], blurred[2]):
        dy, dx = np.gradient(smooth)
        yield from (dx**2, dy**2, dx * dy)


def _around(means: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return means over squares and those at most ``reach`` away."""
    weights = np.full(2 * reach + 1, 1 / (2 * reach + 1))  # uniform_filter keeps running sums, which may end below zero
    for axis in (0, 1):
        means = ndimage.correlate1d(means, weights, axis=axis, mode="nearest")
    return means


def _means(values: NDArray[np.float32] | NDArray[np.bool_], height: int, width: int) -> NDArray[np.float64]:
    means: NDArray[np.float64] = values.reshape(height, SQUARE_PX, width, SQUARE_PX).mean(axis=(1, 3), dtype=np.float64)
    return means


def _describe(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return features (h, w, F) of means (h, w, M): logarithms of energies, spreads, and the order among the edges."""
    energy, fourth, colour, squares, ink, ink_squares, chroma, covered, fine, coarse = np.split(means, _PARTS, axis=-1)
    orders = [np.hypot(xx - yy, 2 * xy) / (xx + yy + _FAINT) for xx, yy, xy in (np.moveaxis(e, -1, 0) for e in (fine, coarse))]
    parts = (
        np.log(energy + _FAINT),
        np.log((fourth + _FAINT**2) / (energy**2 + _FAINT**2)),
        colour,
        np.sqrt(np.maximum(squares - colour**2, 0)),
        np.sqrt(ink),
        np.sqrt(np.maximum(ink_squares - ink**2, 0)),
        chroma[..., :1],
        np.sqrt(np.maximum(chroma[..., 1:] - chroma[..., :1] ** 2, 0)),
        covered,
        np.stack(orders, axis=-1),
    )
    return np.concatenate(parts, axis=-1)
