"""Decoding single tiles and strips of a TIFF from their bytes; sizes are limited to those that the tags declare."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from PIL import Image

from napari_histoad.slide._base import CHOOSE_CHANNELS, UnsupportedVariantError
from napari_histoad.slide._colour import GLASS, on_white
from napari_histoad.slide._jpeg2000 import Codestream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

_INTENSITIES, _RGB, _YCBCR = (0, 1, 32803, 34892), 2, 6
_PLANAR, _BLACK_IS_ZERO = 2, 1
_ALPHA = {1: "associated", 2: "unassociated"}
_APERIO_YCBCR, _APERIO_RGB = 33003, 33005
_JPEG = {7}
_JPEG2000 = {33003, 33004, 33005, 34712}
_IMAGE_CODECS: dict[int, Callable[..., Any]] = {
    50001: imagecodecs.webp_decode,
    50002: imagecodecs.jpegxl_decode,
    52546: imagecodecs.jpegxl_decode,
}
_BYTE_CODECS: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode,
    8: imagecodecs.zlib_decode,
    32773: imagecodecs.packbits_decode,
    32946: imagecodecs.zlib_decode,
    50000: imagecodecs.zstd_decode,
}
_ADOBE_NAME = b"Adobe\0"
_ADOBE_RGB = b"\xff\xee\0\x0e" + _ADOBE_NAME + b"\x64\0\0\0\0\0"
"""The APP14 segment of a JPEG whose components are RGB (Adobe technical note 5116, 18)."""
_LARGEST_SEGMENT = 2**28
_LARGEST_SIDE = 2**22
"""No slide is wider than four million pixels (a metre at 0.25 µm)."""


_IN_RGB = "convert it to RGB, for example: magick IN -colorspace sRGB -type TrueColor OUT.tif"


@dataclass(frozen=True)
class TiledLevel:
    """One level: the positions of its segments (tiles, or strips as wide tiles) in the file, and how to decode them."""

    shape: tuple[int, int]  # (height, width) in pixels
    tile: tuple[int, int]  # (height, width) of a segment
    across: int  # segments per row of segments
    offsets: NDArray[np.int64]  # position of each segment in the file, (planes * down * across,)
    counts: NDArray[np.int64]  # size of each in bytes; 0: it is missing
    samples: int  # 3, or 4 with alpha
    alpha: str | None
    strips: bool
    planar: bool
    compression: int
    photometric: int
    predictor: int
    tables: bytes | None
    header: bytes | None
    colorspace: tuple[Any, Any]

    @property
    def tiles(self) -> int:
        """Number of tiles; a planar tile has three segments."""
        return -(-self.shape[0] // self.tile[0]) * self.across

    def segments(self, number: int) -> list[tuple[int, int]]:
        """Return (offset, size) in bytes of the segments that make up one tile."""
        step = self.tiles
        numbers = range(number, len(self.offsets), step) if self.planar else (number,)
        return [(int(self.offsets[n]), int(self.counts[n])) for n in numbers]

    def decode(self, number: int, segments: list[bytes], out: NDArray[np.uint8]) -> None:
        """Decode one tile into ``out`` (tile_h, tile_w, 3), contiguous.

        Raises ValueError, RuntimeError, TypeError or OSError if the bytes do not match the tags.
        """
        if self.planar:
            for channel, data in enumerate(segments[:3]):
                plane = self._decode(number, data, 1)
                out[: plane.shape[0], : plane.shape[1], channel] = plane[..., 0]
            return
        data = segments[0]
        plain = self.compression in _JPEG and self.samples == 3 and self.header is None
        if plain and self._rows(number) == self.tile[0] and self._decode_jpeg(data, out):
            return
        tile = self._decode(number, data, self.samples)
        target = out[: tile.shape[0], : tile.shape[1]]
        if self.alpha is None:
            target[:] = tile[..., :3]
        else:
            on_white(tile, target, premultiplied=self.alpha == "associated")

    def can_reduce(self, factor: int) -> bool:
        """Return whether tiles can be decoded at 1/2, 1/4 or 1/8 size: only plain JPEG tiles of whole blocks can."""
        whole = self.tile[0] % 8 == 0 and self.tile[1] % 8 == 0
        jpeg = self.compression in _JPEG and self.samples == 3 and self.header is None
        return factor in (2, 4, 8) and whole and jpeg and not self.planar and not self.strips

    def decode_reduced(self, number: int, data: bytes, factor: int, out: NDArray[np.uint8]) -> None:
        """Decode one tile at reduced size into ``out`` (tile_h // factor, tile_w // factor, 3), contiguous.

        An inverse cosine transform of fewer coefficients acts as a low-pass filter, and is faster than the full one.
        """
        if self._decode_jpeg(data, out, factor):
            return
        tile = np.full((*self.tile, 3), GLASS, np.uint8)
        self.decode(number, [data], tile)
        out[:] = np.asarray(Image.fromarray(tile).reduce(factor))

    def _decode_jpeg(self, data: bytes, out: NDArray[np.uint8], factor: int = 1) -> bool:
        """Decode a plain JPEG into ``out``; return False if it does not match the tags: `_decode` then reports why.

        Uses libjpeg-turbo's own interface, which is a quarter faster than reading line by line.
        """
        height, width = out.shape[:2]
        try:
            pixels = simplejpeg.decode_jpeg(
                self._stand_alone(data), "RGB", min_height=height, min_width=width, min_factor=factor, buffer=out
            )
        except ValueError:
            return False
        return bool(pixels.shape == out.shape)

    def _stand_alone(self, data: bytes) -> bytes:
        """Return a complete JPEG: with its tables, and marked as RGB if it is; TIFF stores both elsewhere.

        Raises ValueError if it has a colour mark already, which would take precedence.
        """
        tables = self.tables[2:-2] if self.tables else b""
        if _ADOBE_NAME in tables or _ADOBE_NAME in data[:1024]:
            raise ValueError("it has a colour mark already")
        mark = b"" if self.colorspace[0] is None else _ADOBE_RGB
        return data[:2] + mark + tables + data[2:] if mark or tables else data

    def _rows(self, number: int) -> int:
        """Return the number of rows of a segment: the last strip may be shorter."""
        top = number // self.across * self.tile[0]
        return min(self.tile[0], self.shape[0] - top) if self.strips else self.tile[0]

    def _decode(self, number: int, data: bytes, samples: int) -> NDArray[np.uint8]:
        """Return (h, w, samples), at most the size of a segment."""
        rows, width = self._rows(number), self.tile[1]
        codec = _BYTE_CODECS.get(self.compression)
        if codec is not None or self.compression == 1:
            # A strip may have too many rows, and a decompression bomb any number: the size of the buffer limits both.
            size = self.tile[0] * width * samples
            raw = data[:size] if codec is None else codec(data, out=size)
            whole = len(raw) // (width * samples)
            if whole < rows:
                raise ValueError(f"{len(raw):,} bytes instead of {rows * width * samples:,}")
            tile = np.frombuffer(raw, np.uint8)[: rows * width * samples].reshape(rows, width, samples)
            return imagecodecs.delta_decode(tile, axis=-2) if self.predictor == 2 else tile
        if self.compression in _JPEG:
            if self.header is not None:
                data = self.header + data + b"\xff\xd9"
            self._check_declared(data)
            colorspace, outcolorspace = self.colorspace
            tile = imagecodecs.jpeg8_decode(data, tables=self.tables, colorspace=colorspace, outcolorspace=outcolorspace)
        elif self.compression in _JPEG2000:
            code = Codestream.parse(data)
            self._check_size(*code.shape)
            tile = code.decode(ycbcr=self._is_ycbcr(code))
        else:
            options = {"hasalpha": True} if self.compression == 50001 and samples == 4 else {}
            tile = np.empty((rows, width, samples), np.uint8)
            _IMAGE_CODECS[self.compression](data, out=tile, **options)
        if tile.ndim == 2:
            tile = tile[..., None]
        if tile.dtype != np.uint8 or tile.shape[2] != samples:
            raise ValueError(f"{tile.dtype} pixels of {tile.shape[2]} samples instead of uint8 of {samples}")
        return tile[: self.tile[0], :width]

    def _is_ycbcr(self, code: Codestream) -> bool:
        """Return whether JPEG 2000 components are YCbCr: by Aperio's compression number, else the colour box, else the tags."""
        if self.compression in (_APERIO_YCBCR, _APERIO_RGB):
            return self.compression == _APERIO_YCBCR
        if code.ycbcr is not None:
            return code.ycbcr
        return code.subsampled or (self.photometric == _YCBCR and not code.transformed)

    def _check_declared(self, data: bytes) -> None:
        """Check that a compressed image is not larger than its tile, before memory is allocated for it."""
        try:
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
        except Image.DecompressionBombError as err:
            raise ValueError(str(err)) from err
        self._check_size(height, width)

    def _check_size(self, height: int, width: int) -> None:
        if height > self.tile[0] or width > self.tile[1]:
            raise ValueError(f"{height} x {width} px instead of {self.tile[0]} x {self.tile[1]}")


def parse_level(page: tifffile.TiffPage, planes: Sequence[tifffile.TiffPage | tifffile.TiffFrame] = ()) -> TiledLevel:
    """Return everything that is needed to decode the tiles of a page, or of its red, green and blue ``planes``.

    Raises `UnsupportedVariantError` if the page is not 8-bit RGB(A), or its compression is not decoded here; ValueError if its
    tags contradict each other.
    """
    samples, alpha = _check_pixels(page, grey=bool(planes))
    planar = page.planarconfig == _PLANAR or bool(planes)
    known = _JPEG | _JPEG2000 | set(_IMAGE_CODECS) | set(_BYTE_CODECS) | {1}
    if page.compression not in known or page.predictor not in (1, 2) or page.fillorder != 1:
        raise UnsupportedVariantError(f"its compression ({page.compression}, predictor {page.predictor}) is unknown")
    height, width = page.imagelength, page.imagewidth
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    if min(height, width, *tile) < 1 or max(height, width, *tile) > _LARGEST_SIDE:
        raise ValueError(f"it claims to be {height:,} x {width:,} px in pieces of {tile[0]:,} x {tile[1]:,}")
    if tile[0] * tile[1] * samples > _LARGEST_SEGMENT:
        kind = "tiles" if page.is_tiled else "strips"
        size = f"{tile[0]:,} x {tile[1]:,} px"
        raise UnsupportedVariantError(f"its {kind} of {size} are too large to be read one by one", final=True)
    across = -(-width // tile[1])
    needed = -(-height // tile[0]) * across * (samples if planar and not planes else 1)
    listed = planes or (page,)
    least = min(min(len(part.dataoffsets), len(part.databytecounts)) for part in listed)
    if least < needed:
        raise ValueError(f"it lists {least:,} tiles and needs {needed:,}")
    offsets = np.concatenate([np.array(part.dataoffsets[:needed], np.int64) for part in listed])
    counts = np.concatenate([np.array(part.databytecounts[:needed], np.int64) for part in listed])
    return TiledLevel(
        shape=(height, width),
        tile=tile,
        across=across,
        offsets=offsets,
        counts=np.where(offsets == 0, 0, counts),
        samples=3 if planes else samples,
        alpha=alpha,
        strips=not page.is_tiled,
        planar=planar,
        compression=int(page.compression),
        photometric=int(page.photometric),
        predictor=int(page.predictor),
        tables=page.jpegtables,
        header=page.jpegheader,
        colorspace=tifffile.tifffile.jpeg_decode_colorspace(page.photometric, page.planarconfig, page.extrasamples, page.is_jfif),
    )


def _check_pixels(page: tifffile.TiffPage, *, grey: bool) -> tuple[int, str | None]:
    samples = page.samplesperpixel
    if page.photometric not in (_RGB, _YCBCR, *_INTENSITIES):
        name = getattr(page.photometric, "name", str(page.photometric))
        raise UnsupportedVariantError(f"its colours are stored as {name}, not RGB", final=True, remedy=_IN_RGB)
    if page.dtype is None or page.dtype.itemsize != 1 or page.dtype.kind != "u" or page.imagedepth != 1:
        bits = page.bitspersample
        raise UnsupportedVariantError(f"it has {bits} bits per sample, not 8", final=True, remedy=CHOOSE_CHANNELS)
    if grey and page.photometric == _BLACK_IS_ZERO and samples == 1:
        return 1, None
    if page.photometric not in (_RGB, _YCBCR) or samples < 3:
        raise UnsupportedVariantError("it is not RGB", final=True, remedy=CHOOSE_CHANNELS)
    if samples > 4 or (samples == 4 and page.planarconfig == _PLANAR):
        raise UnsupportedVariantError(f"it has {samples} samples per pixel", final=True, remedy=CHOOSE_CHANNELS)
    jpeg = page.compression in _JPEG | _JPEG2000
    if page.photometric == _YCBCR and (not jpeg or page.planarconfig == _PLANAR):
        raise UnsupportedVariantError("it is stored as YCbCr, uncompressed or in planes")
    extra = page.extrasamples or (0,)
    return samples, _ALPHA.get(int(extra[0])) if samples == 4 else None
