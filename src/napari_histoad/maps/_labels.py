"""From the map to numbered regions, in bands: the map of a whole slide has tens of millions of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_histoad.maps._layout import ATTRIBUTE, chunks_of, multiscales
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_histoad.maps._store import AnomalyMap

__all__ = ["flag_bands", "label_bands", "write_labels"]

_BAND_CELLS = 512
_CORNERS = np.ones((3, 3), bool)


def flag_bands(
    source: AnomalyMap, rate: float | None, min_area_um2: float | None = None, field: NDArray[np.float32] | None = None
) -> Iterator[NDArray[np.uint32]]:
    """Yield the numbered regions of a map, 512 rows of cells at a time; see `AnomalyMap.flag`."""
    threshold = source.calibration.threshold(source.default_rate if rate is None else rate)
    if min_area_um2 is None:
        min_area_um2 = (source.info.tile_px * source.info.mpp / 2) ** 2
    min_cells = int(min_area_um2 / (source.geometry.cell_l0 * source.info.slide_mpp) ** 2)
    return label_bands(_Above(source, threshold, field), min_cells)


def write_labels(source: AnomalyMap, rate: float | None) -> None:
    """Write the numbered regions at a false-positive rate as the OME-Zarr label image ``anomalous``.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    rate = source.default_rate if rate is None else rate
    with atomic_path(source.path / "labels") as folder:
        labels = zarr.create_group(folder, zarr_format=3)
        labels.attrs["ome"] = {"version": "0.5", "labels": ["anomalous"]}
        image = labels.create_group("anomalous")
        image.attrs["ome"] = {**multiscales("anomalous", source.geometry, source.info.slide_mpp), "image-label": {}}
        image.attrs[ATTRIBUTE] = {"false_positive_rate": rate}
        levels = [
            image.create_array(str(level), shape=shape, chunks=chunks_of(shape), dtype="uint32", fill_value=0)
            for level, shape in enumerate(source.geometry.level_shapes())
        ]
        for number, band in enumerate(flag_bands(source, rate)):
            y = number * _BAND_CELLS
            for level, array in enumerate(levels):  # numbers have no mean: every 2nd, 4th, … cell
                step = 2**level
                first, stop = -(-y // step), min(-(-(y + len(band)) // step), array.shape[0])
                if first < stop:
                    array[first:stop] = band[first * step - y :: step, ::step][: stop - first, : array.shape[1]]


class _Above(Sequence[Any]):
    """Bands of a map, packed: True where the score field lies above a threshold."""

    def __init__(self, source: AnomalyMap, threshold: float, field: NDArray[np.float32] | None) -> None:
        height, self._width = source.geometry.shape
        self._heights = [min(_BAND_CELLS, height - y) for y in range(0, height, _BAND_CELLS)]
        self._packed = []
        for number, rows in enumerate(self._heights):
            y = number * _BAND_CELLS
            band = source.score_field((y, 0, y + rows, self._width)) if field is None else field[y : y + rows]
            self._packed.append(np.packbits(band > threshold))  # NaN is not

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, number: Any) -> Any:
        rows = self._heights[number]
        return np.unpackbits(self._packed[number], count=rows * self._width).reshape(rows, self._width).astype(bool)


def label_bands(bands: Sequence[NDArray[np.bool_]], min_cells: int) -> Iterator[NDArray[np.uint32]]:
    """Yield the numbers of the connected parts of a picture that comes in bands; corners connect.

    Parameters
    ----------
    bands : sequence of (h, W) bool
        From top to bottom. Looked at twice, one at a time: the map of a whole slide has tens of millions of cells.
    min_cells : int
        Smaller parts are left out.

    Yields
    ------
    (h, W) uint32
        The numbers in each band, 0 outside; parts are numbered from 1 in the order in which they begin.
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
