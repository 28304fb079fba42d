"""A slide as lazy arrays, for viewers and for dask."""

from __future__ import annotations

import itertools
import math
import operator
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoad.system.host import usable_cores

if TYPE_CHECKING:
    import dask.array as da
    from numpy.typing import NDArray

    from napari_histoad.slide._base import Slide

_LARGEST_SINGLE_PX = 2048
_WIDEST_GAP = 3
_KEPT_CHUNKS = 256


class _Boxes:
    """A cache of the boxes of a slide that were read last, per level and colour setting.

    A viewer that is moved a little requests nearly the same boxes again.
    """

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self.name = slide.name
        self.read = lru_cache(_KEPT_CHUNKS)(partial(_read_box, slide))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Boxes, (self._slide,)


def _read_box(slide: Slide, level: int | None, shape: tuple[int, int], y0: int, x0: int, y1: int, x1: int) -> NDArray[np.uint8]:
    """Read a box of a level of the file or, if ``level`` is None, of a computed level of this shape."""
    if level is not None:
        pixels = slide.read(level, y0, x0, y1 - y0, x1 - x0)
    else:
        ratio_y, ratio_x = (full / n for full, n in zip(slide.shape, shape, strict=True))
        box = (y0 * ratio_y, x0 * ratio_x, (y1 - y0) * ratio_y, (x1 - x0) * ratio_x)
        pixels = slide.read_scaled(*box, (y1 - y0, x1 - x0))
    pixels.flags.writeable = False  # the same array is returned again
    return pixels


class LevelArray:
    """One level of a slide as an array that is read in chunks when it is indexed; made by `level_arrays`.

    Viewers, dask and NumPy accept it as an array: they use ``shape`` (height, width, 3), ``dtype``, ``chunks`` and slices.
    """

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(self, boxes: _Boxes, shape: tuple[int, int], level: int | None, chunk_px: int) -> None:
        self._boxes, self._level, self._chunk = boxes, level, chunk_px
        self.shape = (*shape, 3)
        self.chunks = (chunk_px, chunk_px, 3)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<LevelArray {self.shape[0]} x {self.shape[1]} of {self._boxes.name}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> LevelArray:
        return self  # nothing can be written into it

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's protocol
        return np.array(self[:], dtype, copy=copy)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """Read pixels; the key is an integer, a slice without negative step, an ellipsis or a tuple of them."""
        index = list(key) if isinstance(key, tuple) else [key]
        for at in [at for at, i in enumerate(index) if i is Ellipsis][:1]:
            index[at : at + 1] = [slice(None)] * (self.ndim + 1 - len(index))
        index += [slice(None)] * (self.ndim - len(index))
        if len(index) != self.ndim:
            raise IndexError(f"too many indices: {key}")
        (y0, y1, y), (x0, x1, x) = (_span(i, n) for i, n in zip(index, self.shape[:2], strict=False))
        return self._read(y0, x0, y1, x1)[y, x, index[2]]

    def _read(self, y0: int, x0: int, y1: int, x1: int) -> NDArray[np.uint8]:
        """Return a box, assembled from chunks by several threads; if it is within one chunk, it is a view of that."""
        side = self._chunk
        corners = list(itertools.product(range(y0 - y0 % side, y1, side), range(x0 - x0 % side, x1, side)))
        if len(corners) == 1:
            ((top, left),) = corners
            return self._box(top, left)[y0 - top : y1 - top, x0 - left : x1 - left]
        out = np.empty((y1 - y0, x1 - x0, 3), np.uint8)

        def place(corner: tuple[int, int]) -> None:
            top, left = corner
            bottom, right = min(top + side, y1), min(left + side, x1)
            part = self._box(top, left)[max(y0 - top, 0) : bottom - top, max(x0 - left, 0) : right - left]
            out[max(top - y0, 0) : bottom - y0, max(left - x0, 0) : right - x0] = part

        for _ in _readers(usable_cores(), os.getpid()).map(place, corners):
            pass
        return out

    def _box(self, top: int, left: int) -> NDArray[np.uint8]:
        height, width = self.shape[:2]
        bottom, right = min(top + self._chunk, height), min(left + self._chunk, width)
        return self._boxes.read(self._level, (height, width), top, left, bottom, right)


def _span(index: Any, length: int) -> tuple[int, int, int | slice]:
    """Return begin and end of the pixels that an index along an axis selects, and the index relative to them."""
    if isinstance(index, slice):
        begin, end, step = index.indices(length)
        if step < 1:
            raise IndexError(f"a level cannot be indexed in steps of {step}; use a positive step")
        return begin, max(begin, end), slice(None, None, step)
    number = operator.index(index)
    if not -length <= number < length:
        raise IndexError(f"{number} is out of bounds: the axis has {length} pixels")
    return number % length, number % length + 1, 0


@lru_cache(1)
def _readers(threads: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a forked process needs threads of its own
    return ThreadPoolExecutor(threads, thread_name_prefix="level")


def level_arrays(slide: Slide, chunk_px: int = 512) -> list[LevelArray]:
    """Return the slide as lazy arrays for a viewer, finest first, in equal chunks on every level.

    Where the coarsest level of the file is large, coarser ones are added that are computed on demand, so that a viewer never
    loads a giant single level. Where a level is four times smaller than the last, as in most scanners' files, one of half the
    size is added between them: viewers show the next finer level, which would be up to sixteen pixels per screen pixel.

    These are not dask arrays (see `pyramid`): planning a dask graph and joining 25 chunks in one thread kept napari's window
    waiting up to 50 ms longer than reading.

    Parameters
    ----------
    slide : Slide
        Must stay open as long as the arrays are used.
    chunk_px : int
        Chunk height and width in pixels.
    """
    boxes = _Boxes(slide)
    arrays: list[LevelArray] = []
    for index, level in enumerate(slide.levels):
        while arrays and arrays[-1].shape[0] > _WIDEST_GAP * level.shape[0]:
            arrays.append(LevelArray(boxes, _half(arrays[-1]), None, chunk_px))
        arrays.append(LevelArray(boxes, level.shape, index, chunk_px))
    while max(arrays[-1].shape[:2]) > _LARGEST_SINGLE_PX:
        arrays.append(LevelArray(boxes, _half(arrays[-1]), None, chunk_px))
    return arrays


def pyramid(slide: Slide, chunk_px: int = 512) -> list[da.Array]:
    """Return the slide as lazy dask arrays, finest first: the arrays of `level_arrays`, to compute with.

    Parameters
    ----------
    slide : Slide
        Must stay open as long as the arrays are used.
    chunk_px : int
        Chunk height and width in pixels.

    Returns
    -------
    list of (H, W, 3) uint8 dask arrays
    """
    import dask.array as da

    return [
        da.from_array(
            array,
            chunks=array.chunks,
            name=f"{slide.name}-{id(array)}-{i}",
            asarray=False,
            meta=np.empty((0, 0, 0), np.uint8),
        )
        for i, array in enumerate(level_arrays(slide, chunk_px))
    ]


def _half(array: LevelArray) -> tuple[int, int]:
    return math.ceil(array.shape[0] / 2), math.ceil(array.shape[1] / 2)
