"""Tiled TIFF and Aperio SVS by direct tile decoding.

The tags are parsed once; after that a tile is one positional read and one decode, without the GIL.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import imagecodecs
import numpy as np
import tifffile

from napari_histoad.errors import SlideError
from napari_histoad.slide._base import GLASS, Slide, make_levels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TiffSlide", "UnsupportedTiffError"]

_CACHE_BYTES = 128 * 2**20
_RGB, _YCBCR, _JPEG, _CONTIG = 2, 6, 7, 1
_UNIT_UM = {2: 25400.0, 3: 10000.0}
_APERIO_FIELD = re.compile(r"\|\s*([^=|]+?)\s*=\s*([^|]*?)\s*(?=\||$)")


class UnsupportedTiffError(Exception):
    """The file is a TIFF, but not one that is decoded directly; unless ``hopeless``, another backend may read it."""

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


@dataclass(frozen=True)
class _TiledLevel:
    """All that decoding needs, free of tifffile's file handle."""

    shape: tuple[int, int]
    tile: tuple[int, int]
    across: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    tables: bytes | None
    colorspace: tuple[Any, Any]
    decode: Callable[..., Any] | None


class _File:
    """Positional reads that any number of threads may issue at once."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, os.close, self._fd)

    def read(self, count: int, offset: int) -> bytes:
        if not self.close.alive:
            raise OSError("the slide has been closed")
        if hasattr(os, "pread"):
            return os.pread(self._fd, count, offset)
        with self._lock:  # Windows has no pread
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, count)


class _TileCache:
    """Recently decoded tiles, bounded in bytes."""

    def __init__(self) -> None:
        self._tiles: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> NDArray[np.uint8] | None:
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: tuple[int, int], tile: NDArray[np.uint8]) -> None:
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > _CACHE_BYTES:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


class TiffSlide(Slide):
    """A tiled 8-bit RGB TIFF, BigTIFF or Aperio SVS.

    Raises
    ------
    UnsupportedTiffError
        If the TIFF is of another kind (stripped, grey, 16 bit, planar, NDPI, …).
    SlideError
        If its structure is broken.
    """

    format: ClassVar[str] = "tiled TIFF"

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        try:
            with tifffile.TiffFile(path) as tif:
                if tif.is_ndpi or tif.is_scn or tif.is_philips:
                    raise UnsupportedTiffError("its pyramid needs its vendor's rules")
                pages = _level_pages(tif)
                self._tiled = [_parse_level(page) for page in pages]
                first = pages[0]
                description = first.description or ""
                properties = _properties(first, description)
                file_mpp = _aperio_mpp(description) if tif.is_svs else _resolution_mpp(first)
                icc = first.tags.get(34675)
                others = {
                    s.name.lower(): (i, s.name)
                    for i, s in enumerate(tif.series)
                    if tif.is_svs and s.name in ("Label", "Macro", "Thumbnail")
                }
                if tif.is_svs:
                    self.format = "Aperio SVS"  # type: ignore[misc]
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as err:
            msg = f"{path.name} is not a readable TIFF ({_first_line(err)})"
            raise SlideError(msg, "the file may be cut short or damaged: copy it again from its source") from err
        super().__init__(
            path,
            make_levels([level.shape for level in self._tiled]),
            file_mpp=file_mpp,
            mpp=mpp,
            properties=properties,
            icc_profile=bytes(icc.value) if icc is not None else None,
        )
        self._check_extent()
        self._file = _File(path)
        self._cache = _TileCache()
        for name, (index, _) in others.items():
            self._associated[name] = lambda index=index: _read_series(path, index)  # type: ignore[misc]

    def _check_extent(self) -> None:
        size = self.path.stat().st_size
        for index, level in enumerate(self._tiled):
            end = max(o + c for o, c in zip(level.offsets, level.counts, strict=True))
            if end > size:
                msg = f"{self.path.name} is cut short: level {index} ends at byte {end:,}, the file at {size:,}"
                raise SlideError(msg, "copy the file again from its source")

    def _decode(self, index: int, number: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return one tile, (tile_h, tile_w, 3); into ``out`` if given."""
        level = self._tiled[index]
        tile = np.empty((*level.tile, 3), np.uint8) if out is None else out
        count = level.counts[number]
        if count == 0:  # sparse: never scanned
            tile[:] = GLASS
            return tile
        try:
            data = self._file.read(count, level.offsets[number])
            if level.decode is None:
                colorspace, outcolorspace = level.colorspace
                imagecodecs.jpeg8_decode(data, tables=level.tables, colorspace=colorspace, outcolorspace=outcolorspace, out=tile)
            else:
                segment, _, shape = level.decode(data, number, jpegtables=level.tables)
                if segment is None:
                    tile[:] = GLASS
                else:
                    tile[: shape[1], : shape[2]] = segment[0, : shape[1], : shape[2]]
        except (ValueError, RuntimeError, OSError, TypeError, IndexError, imagecodecs.DelayedImportError) as err:
            y, x = divmod(number, level.across)
            msg = f"{self.path.name}: tile (row {y}, column {x}) of level {index} cannot be decoded ({_first_line(err)})"
            raise SlideError(msg, "the file is damaged there: copy it again from its source") from err
        return tile

    def _read_inside(self, level: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
        info = self._tiled[level]
        (tile_h, tile_w), (h, w) = info.tile, out.shape[:2]
        for row in range(y // tile_h, (y + h - 1) // tile_h + 1):
            for column in range(x // tile_w, (x + w - 1) // tile_w + 1):
                number = row * info.across + column
                top, left = row * tile_h - y, column * tile_w - x
                y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + tile_h, h), min(left + tile_w, w)
                target = out[y0:y1, x0:x1]
                if target.shape[:2] == info.tile and target.flags.c_contiguous:
                    self._decode(level, number, target)
                    continue
                tile = self._cache.get((level, number))
                if tile is None:
                    tile = self._decode(level, number)
                    self._cache.put((level, number), tile)
                target[:] = tile[y0 - top : y1 - top, x0 - left : x1 - left]

    def close(self) -> None:
        self._file.close()
        self._cache.clear()


def _level_pages(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    if not tif.pages or not tif.series:
        raise ValueError("it lists no image")
    series = tif.series[0]
    pages = [level.keyframe for level in series.levels]
    # A level that does not shrink, or not evenly, is a label or a macro that strayed into the pyramid.
    height, width = pages[0].imagelength, pages[0].imagewidth
    kept = [pages[0]]
    for page in pages[1:]:
        ratio_y, ratio_x = height / page.imagelength, width / page.imagewidth
        shrinks = page.imagewidth < kept[-1].imagewidth
        if page.is_tiled and shrinks and abs(ratio_y - ratio_x) <= 0.02 * ratio_y + 1 / page.imagelength * ratio_y:
            kept.append(page)
    return kept


def _parse_level(page: tifffile.TiffPage) -> _TiledLevel:
    if page.dtype != np.uint8 or page.samplesperpixel != 3 or page.planarconfig != _CONTIG:
        raise UnsupportedTiffError("it is not 8-bit RGB", hopeless=page.dtype != np.uint8 or page.samplesperpixel < 3)
    if page.photometric not in (_RGB, _YCBCR) or page.imagedepth != 1:
        raise UnsupportedTiffError("it is not RGB", hopeless=True)
    if not page.is_tiled:
        raise UnsupportedTiffError("it is stored in strips")
    tile = (page.tilelength, page.tilewidth)
    down, across = -(-page.imagelength // tile[0]), -(-page.imagewidth // tile[1])
    if len(page.dataoffsets) != down * across or len(page.databytecounts) != down * across:
        raise ValueError(f"{len(page.dataoffsets)} tiles listed, {down * across} due")
    direct = page.compression == _JPEG and not page.is_jfif
    return _TiledLevel(
        shape=(page.imagelength, page.imagewidth),
        tile=tile,
        across=across,
        offsets=tuple(page.dataoffsets),
        counts=tuple(page.databytecounts),
        tables=page.jpegtables,
        colorspace=tifffile.tifffile.jpeg_decode_colorspace(page.photometric, page.planarconfig, page.extrasamples, page.is_jfif),
        decode=None if direct else page.decode,
    )


def _aperio_mpp(description: str) -> float | None:
    value = dict(_APERIO_FIELD.findall(description)).get("MPP")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return float(value)
    return None


def _resolution_mpp(page: tifffile.TiffPage) -> float | None:
    resolution, unit = page.tags.get("XResolution"), page.tags.get("ResolutionUnit")
    if resolution is None or unit is None or int(unit.value) not in _UNIT_UM:
        return None
    pixels, per = resolution.value
    return _UNIT_UM[int(unit.value)] * per / pixels if pixels and per else None


def _properties(page: tifffile.TiffPage, description: str) -> dict[str, str]:
    properties = dict(_APERIO_FIELD.findall(description))
    for name in ("Make", "Model", "Software", "DateTime"):
        tag = page.tags.get(name)
        if tag is not None:
            properties[name] = str(tag.value)
    if description and "|" not in description:
        properties["ImageDescription"] = description[:2000]
    properties["Compression"] = tifffile.COMPRESSION(page.compression).name
    properties["Tile"] = f"{page.tilelength} x {page.tilewidth}"
    return properties


def _read_series(path: Path, index: int) -> NDArray[np.uint8]:
    with tifffile.TiffFile(path) as tif:
        image: NDArray[np.uint8] = np.ascontiguousarray(tif.series[index].asarray()[..., :3])
    return image


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
