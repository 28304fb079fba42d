"""From the map to numbered regions, in bands: the map of a whole slide has tens of millions of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

BAND_CELLS = 512
_CORNERS = np.ones((3, 3), bool)


def flag_bands(
    field: Callable[[int, int], NDArray[np.float32]], shape: tuple[int, int], threshold: float, min_cells: int
) -> Iterator[NDArray[np.uint32]]:
    """Yield numbered regions above a threshold in bands of 512 rows, see `AnomalyMap.flag`; ``field(y0, y1)`` returns rows."""
    return label_bands(_Above(field, shape, threshold), min_cells)


class _Above(Sequence[Any]):
    """Bands of a map, packed: True where the anomaly map is above the threshold."""

    def __init__(self, field: Callable[[int, int], NDArray[np.float32]], shape: tuple[int, int], threshold: float) -> None:
        height, self._width = shape
        bands = [(y, min(y + BAND_CELLS, height)) for y in range(0, height, BAND_CELLS)]
        self._heights = [stop - first for first, stop in bands]
        self._packed = [np.packbits(field(first, stop) > threshold) for first, stop in bands]  # NaN is not

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, number: Any) -> Any:
        rows = self._heights[number]
        return np.unpackbits(self._packed[number], count=rows * self._width).reshape(rows, self._width).astype(bool)


def label_bands(bands: Sequence[NDArray[np.bool_]], min_cells: int) -> Iterator[NDArray[np.uint32]]:
    """Yield the numbers (h, W) of the connected parts of a picture that comes in bands, from top to bottom; corners connect.

    Parts of fewer than ``min_cells`` are left out; the others are numbered from 1 in the order in which they begin; 0 is outside.
    The bands are looked at twice, one at a time: the map of a whole slide has tens of millions of cells.
    """
    # First each band by itself: how many parts, of what size, and which touch parts of the band above.
    counts, sizes, touching = [0], [np.zeros(1, np.int64)], [np.empty((0, 2), np.int64)]
    above: NDArray[np.int64] | None = None
    for band in bands:
        numbers, found = ndimage.label(band, _CORNERS)
        first = counts[-1]
        sizes.append(np.bincount(numbers[band], minlength=found + 1)[1:])
        numbered = np.where(numbers[[0, -1]] > 0, numbers[[0, -1]].astype(np.int64) + first, 0)
        if above is not None:
            touching.append(_pairs(above, numbered[0]))
        above = numbered[1]
        counts.append(first + found)
    # Then parts that touch become one, and the small ones none.
    total, pairs, size = counts[-1] + 1, np.concatenate(touching), np.concatenate(sizes)
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(total, total))
    _, whole = connected_components(graph, directed=False)
    large = np.bincount(whole, weights=size) >= max(1, min_cells)
    large[whole[0]] = False
    begins = np.full(whole.max() + 1, total)
    np.minimum.at(begins, whole, np.arange(total))
    rank = np.zeros(len(begins), np.uint32)
    order = np.argsort(np.where(large, begins, total), kind="stable")[: large.sum()]
    rank[order] = np.arange(1, len(order) + 1)
    final = rank[whole]
    for band, first in zip(bands, counts, strict=False):
        numbers, _ = ndimage.label(band, _CORNERS)
        labels = np.zeros(band.shape, np.uint32)
        labels[band] = final[numbers[band] + first]
        yield labels


def _pairs(above: NDArray[np.int64], below: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N, 2) numbers of parts that touch across two rows, straight or at a corner."""
    found = []
    for a, b in ((above, below), (above[:-1], below[1:]), (above[1:], below[:-1])):
        both = (a > 0) & (b > 0)
        found.append(np.stack([a[both], b[both]], axis=1))
    return np.unique(np.concatenate(found), axis=0)
