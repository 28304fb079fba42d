"""A slide as lazy dask arrays for a viewer."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.slide._base import Slide

__all__ = ["pyramid"]

_LARGEST_SINGLE_PX = 2048
_WIDEST_GAP = 3
_KEPT_CHUNKS = 256


class _Boxes:
    """Boxes of the resolutions of a slide; those read last are kept, in the colours that they are shown in.

    A viewer that is moved a little asks for nearly all it shows once more. napari would keep chunks too, but through
    dask's opportunistic cache, which costs three times as much as reading them from here.
    """

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self.read = lru_cache(_KEPT_CHUNKS)(partial(_read_box, slide))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Boxes, (self._slide,)


def _read_box(slide: Slide, level: int | None, shape: tuple[int, int], y0: int, x0: int, y1: int, x1: int) -> NDArray[np.uint8]:
    """Read a box of a level of the file, or of a resolution of this shape that is computed."""
    if level is not None:
        pixels = slide.read(level, y0, x0, y1 - y0, x1 - x0)
    else:
        ratio_y, ratio_x = (full / n for full, n in zip(slide.shape, shape, strict=True))
        box = (y0 * ratio_y, x0 * ratio_x, (y1 - y0) * ratio_y, (x1 - x0) * ratio_x)
        pixels = slide.read_scaled(*box, (y1 - y0, x1 - x0))
    pixels.flags.writeable = False  # whoever asks again gets the same array
    return pixels


class _LevelArray:
    """One resolution of a slide, indexable by slices: what dask reads from."""

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(self, boxes: _Boxes, shape: tuple[int, int], level: int | None) -> None:
        self._boxes, self._level = boxes, level
        self.shape = (*shape, 3)

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
        (y0, y1), (x0, x1) = ((s.start or 0, n if s.stop is None else s.stop) for s, n in zip(key, self.shape[:2], strict=False))
        return self._boxes.read(self._level, self.shape[:2], y0, x0, y1, x1)[..., key[2]]


def pyramid(slide: Slide, chunk_px: int = 512) -> list[da.Array]:
    """Return the slide as lazy arrays, finest first, in equal chunks on every level.

    Where the file ends at a large level, coarser ones are added that are computed when looked at, so that a
    viewer never loads a giant single level. Where one level is a quarter of the last, as in most scanners' files, the half
    is added in between: viewers take the next finer level, which would be up to sixteen pixels for each on the screen.

    Parameters
    ----------
    slide : Slide
        Stays open as long as the arrays live.
    chunk_px : int
        Chunk height and width in pixels.

    Returns
    -------
    list of (H, W, 3) uint8 dask arrays
    """
    boxes = _Boxes(slide)
    arrays: list[_LevelArray] = []
    for index, level in enumerate(slide.levels):
        while arrays and arrays[-1].shape[0] > _WIDEST_GAP * level.shape[0]:
            arrays.append(_LevelArray(boxes, _half(arrays[-1]), None))
        arrays.append(_LevelArray(boxes, level.shape, index))
    while max(arrays[-1].shape[:2]) > _LARGEST_SINGLE_PX:
        arrays.append(_LevelArray(boxes, _half(arrays[-1]), None))
    return [
        da.from_array(
            array,
            chunks=(chunk_px, chunk_px, 3),
            name=f"{slide.name}-{id(array)}-{i}",
            asarray=False,
            meta=np.empty((0, 0, 0), np.uint8),
        )
        for i, array in enumerate(arrays)
    ]


def _half(array: _LevelArray) -> tuple[int, int]:
    return math.ceil(array.shape[0] / 2), math.ceil(array.shape[1] / 2)
