"""Slides made of arrays: napari layers that another reader opened, OME-Zarr, pictures."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from napari_histoad.errors import SlideError
from napari_histoad.slide._base import make_levels
from napari_histoad.slide._colour import on_white
from napari_histoad.slide._focus import focal_plane
from napari_histoad.slide._tiled import TiledSlide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histoad.slide._base import Slide

_TILE_PX = 1024


class ArraySlide(TiledSlide):
    """A slide whose pixels are arrays: NumPy, dask, zarr or anything that can be sliced.

    Parameters
    ----------
    levels : sequence of (H, W, 3 or 4) uint8 arrays
        Finest first; the fourth channel is opacity.
    name : str or Path
        Name of the slide, or its path if it has one.
    mpp_yx : tuple[float, float], optional
        µm per level-0 pixel (y, x), if known.
    mpp : float, optional
        Used instead of ``mpp_yx``.
    tile : tuple[int, int]
        (height, width) in pixels of the parts that are read from the arrays; best a multiple of their chunks.
    properties : dict[str, str], optional
    icc_profile : bytes, optional
        Colour profile of the pixels, see `Slide`.
    notes : sequence of str
        See `Slide`.

    Raises
    ------
    SlideError
        If an array is not 8-bit RGB(A).
    """

    format: ClassVar[str] = "array"
    on_disk: ClassVar[bool] = False

    def __init__(
        self,
        levels: Sequence[Any],
        name: str | Path,
        *,
        mpp_yx: tuple[float, float] | None = None,
        mpp: float | None = None,
        tile: tuple[int, int] = (_TILE_PX, _TILE_PX),
        properties: dict[str, str] | None = None,
        icc_profile: bytes | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        path = Path(name)
        for level in levels:
            shape, dtype = tuple(level.shape), np.dtype(level.dtype)
            if len(shape) != 3 or shape[2] not in (3, 4) or dtype != np.uint8 or 0 in shape:
                msg = f"{path.name} is not 8-bit RGB: it is {dtype} of shape {' x '.join(str(n) for n in shape)}"
                raise SlideError(msg, "convert it to 8-bit RGB")
        self._arrays = list(levels)
        super().__init__(
            path,
            make_levels([(int(level.shape[0]), int(level.shape[1])) for level in levels]),
            [tile] * len(levels),
            file_mpp_yx=mpp_yx,
            mpp=mpp,
            properties=properties or {},
            icc_profile=icc_profile,
            notes=notes,
        )

    def _decode(self, level: int, row: int, column: int, out: NDArray[np.uint8]) -> None:
        height, width = out.shape[:2]
        y, x = row * height, column * width
        try:
            pixels = np.asarray(self._arrays[level][y : y + height, x : x + width])
        except Exception as err:
            msg = f"{self.path.name}: level {level} cannot be read at y={y}, x={x} ({str(err) or type(err).__name__:.160})"
            raise SlideError(" ".join(msg.split()), "check that its source still exists and is complete") from err
        target = out[: pixels.shape[0], : pixels.shape[1]]
        if pixels.shape[2] == 4:
            on_white(pixels, target)
        else:
            target[:] = pixels

    def with_mpp(self, mpp: float) -> Slide:
        return super().with_mpp(mpp) if self.on_disk else self._maker()(mpp=mpp)

    def _maker(self) -> Callable[..., ArraySlide]:
        options: dict[str, Any] = {
            "mpp_yx": self.file_mpp_yx,
            "tile": self._tiles[0],
            "properties": self.properties,
            "icc_profile": self.icc_profile,
            "notes": self.notes,
        }
        return partial(ArraySlide, self._arrays, str(self.path), **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return super().__reduce__() if self.on_disk else (partial(self._maker(), mpp=self._given_mpp), ())


class Planes:
    """A view of an array as (H, W, C), whatever the order of its axes; `SlideError` if it holds several images.

    ``axes``: one letter per axis: y, x, c for channels, z of which one plane is chosen; others must have length one.
    """

    def __init__(self, array: Any, axes: str) -> None:
        self._array, self._axes = array, axes
        size = dict(zip(axes, array.shape, strict=True))
        extra = [axis for axis in axes if axis not in "cyxz" and size[axis] != 1]
        if extra:
            what = "time points" if extra[0] == "t" else extra[0]
            raise SlideError(f"it holds {size[extra[0]]} {what}, not one image", "save a single one")
        plane, self.notes = focal_plane(int(size.get("z", 1)))
        self._others = {"c": slice(None), "z": plane}
        self.shape = (int(size["y"]), int(size["x"]), int(size.get("c", 1)))
        self.dtype = np.dtype(array.dtype)
        chunk = dict(zip(axes, getattr(array, "chunks", array.shape), strict=True))
        self.chunks = (int(chunk["y"]), int(chunk["x"]))

    def __getitem__(self, box: tuple[slice, slice]) -> NDArray[Any]:
        index = tuple(box["yx".index(a)] if a in "yx" else self._others.get(a, 0) for a in self._axes)
        pixels = np.asarray(self._array[index])
        left = [axis for axis in self._axes if axis in "cyx"]
        if "c" not in left:
            pixels, left = pixels[..., None], [*left, "c"]
        return np.ascontiguousarray(np.transpose(pixels, [left.index(axis) for axis in "yxc"]))


def tile_of_chunks(chunks: tuple[int, int]) -> tuple[int, int]:
    """Return a tile size of at least 512 px that is a multiple of the chunks, so that no chunk is decoded twice."""
    height, width = (n * max(1, math.ceil(512 / n)) if n <= 4096 else _TILE_PX for n in chunks)
    return height, width
