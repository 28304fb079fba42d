"""The label, macro and thumbnail pictures in a TIFF, in all ways in which they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tifffile
from PIL import Image

from napari_histoad.slide._base import UnsupportedVariantError
from napari_histoad.slide._colour import GLASS
from napari_histoad.slide._remote import open_binary
from napari_histoad.slide._tiff_tiles import parse_level

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from napari_histoad.slide._tiff_tiles import TiledLevel

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_PLANAR = 2


def read_picture(path: Path, number: int) -> NDArray[np.uint8]:
    """Return a page as (h, w, 3) uint8 RGB; ValueError, RuntimeError, TypeError or OSError if it cannot be decoded."""
    with open_binary(path) as handle:
        page = tifffile.TiffFile(handle).pages[number]
        if not isinstance(page, tifffile.TiffPage):
            raise TypeError("it has no tags")
        try:
            level = parse_level(page)
        except UnsupportedVariantError:
            return _in_rgb(page)
        return _decode(level, handle)


def _decode(level: TiledLevel, handle: BinaryIO) -> NDArray[np.uint8]:
    out = np.full((*level.shape, 3), GLASS, np.uint8)
    tile_h, tile_w = level.tile
    for number in range(level.tiles):
        tile = np.full((tile_h, tile_w, 3), GLASS, np.uint8)
        segments = []
        for offset, count in level.segments(number):
            handle.seek(offset)
            segments.append(handle.read(count))
        if all(segments):
            level.decode(number, segments, tile)
        y, x = number // level.across * tile_h, number % level.across * tile_w
        part = out[y : y + tile_h, x : x + tile_w]
        part[:] = tile[: part.shape[0], : part.shape[1]]
    return out


def _in_rgb(page: tifffile.TiffPage) -> NDArray[np.uint8]:
    """Return a page that is not 8-bit RGB as such: a label may be black and white, have a palette, or 16 bits."""
    pixels = page.asarray()
    if page.planarconfig == _PLANAR and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim not in (2, 3):
        raise ValueError(f"it has {pixels.ndim} axes")
    kind = page.photometric
    if kind == _PALETTE and page.colormap is not None and pixels.ndim == 2:
        return np.ascontiguousarray((page.colormap[:, pixels] >> 8).astype(np.uint8).transpose(1, 2, 0))
    pixels = _in_8_bits(pixels)
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    if kind == _WHITE_IS_ZERO:
        grey = 255 - grey
    if kind in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return np.stack([grey] * 3, axis=-1)
    if kind == _RGB and pixels.ndim == 3 and pixels.shape[2] >= 3:
        return np.ascontiguousarray(pixels[..., :3])
    mode = {_CMYK: "CMYK", _YCBCR: "YCbCr"}.get(kind)
    if mode is None or pixels.ndim != 3 or pixels.shape[2] != len(Image.new(mode, (1, 1)).getbands()):
        raise ValueError(f"its colour space (PhotometricInterpretation {int(kind)}) is unknown")
    return np.asarray(Image.frombytes(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels).tobytes()).convert("RGB"))


def _in_8_bits(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return (pixels.astype(np.uint16) >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"its pixels are {pixels.dtype}")
    return pixels.astype(np.uint8)
