"""TIFF slides whose tiles are decoded directly.

The tags are parsed once; then each tile takes one read and one decode, both without the GIL.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import struct
from typing import TYPE_CHECKING, ClassVar

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from napari_histoad.errors import SlideError, first_line
from napari_histoad.slide._base import Level, coarsest
from napari_histoad.slide._colour import GLASS
from napari_histoad.slide._positional_file import PositionalFile
from napari_histoad.slide._remote import RemoteFile, is_remote, open_binary
from napari_histoad.slide._tiff_layout import check_chain, read_layout
from napari_histoad.slide._tiff_levels import place_levels
from napari_histoad.slide._tiff_pictures import read_picture
from napari_histoad.slide._tiff_tiles import parse_level
from napari_histoad.slide._tiled import TiledSlide

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histoad.slide._tiff_tiles import TiledLevel

_FINER = 0.95
"""A source counts as finer than a level if its downsample is less than this fraction of the level's; reduced sizes are below
0.9 of it."""
_STRIP_PX = 16_000_000


class TiffSlide(TiledSlide):
    """An 8-bit RGB TIFF in tiles or strips: plain, BigTIFF, SVS, NDPI, SCN, Philips, QPTIFF or OME-TIFF."""

    format: ClassVar[str] = "TIFF"
    patterns: ClassVar[tuple[str, ...]] = (
        *("*.tif", "*.tiff", "*.btf", "*.tf8", "*.svs", "*.svslide", "*.qptiff"),
        *("*.ndpi", "*.scn", "*.bif"),
    )
    reads_urls: ClassVar[bool] = True

    @classmethod
    def supports(cls, path: Path, head: bytes | None) -> bool:  # noqa: ARG003 - the ending says nothing
        return head is not None and head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        try:
            with open_binary(path) as handle:
                check_chain(handle)
                self._size = handle.seek(0, os.SEEK_END)
                handle.seek(0)
                tif = tifffile.TiffFile(handle)
                layout = read_layout(tif)
                kept, levels, notes = place_levels(layout.pages)
                self._pages = [parse_level(layout.pages[i], layout.planes[i] if layout.planes else ()) for i in kept]
                icc = _profile(layout.pages[0])
        except _BROKEN as err:
            msg = f"{path.name} is not a readable TIFF ({first_line(err)})"
            raise SlideError(msg, "the file may be cut short or damaged: copy it again from its source") from err
        except OSError as err:
            raise SlideError(f"{path.name} cannot be read ({first_line(err)})", "check the disk or the network") from err
        self.format = layout.format  # type: ignore[misc]
        super().__init__(
            path,
            levels,
            [level.tile for level in self._pages],
            file_mpp_yx=layout.mpp_yx,
            mpp=mpp,
            properties=layout.properties,
            icc_profile=icc,
            notes=[*layout.notes, *notes],
        )
        self._check_extent()
        self._in_finer = _stored_below(self.levels, self._pages)
        self._add_reduced()
        self._file = RemoteFile(path) if is_remote(path) else PositionalFile(path)
        for name, page in layout.associated.items():
            self._associated[name] = lambda page=page: _read_beside(path, page)  # type: ignore[misc]

    def _check_extent(self) -> None:
        for index, level in enumerate(self._pages):
            end = int((level.offsets + level.counts).max())
            if end > self._size or int(level.offsets.min()) < 0 or int(level.counts.min()) < 0:
                msg = f"{self.path.name} is cut short: level {index} ends at byte {end:,}, the file at {self._size:,}"
                raise SlideError(msg, "copy the file again from its source")

    def _add_reduced(self) -> None:
        """Add sources of JPEG tiles decoded at half, quarter and eighth size, where the file has no level of that size."""
        self._reduced: list[tuple[int, int]] = []
        for index, (level, page) in enumerate(zip(self.levels, self._pages, strict=True)):
            coarser = self.levels[index + 1].downsample if index + 1 < len(self.levels) else math.inf
            for factor in (2, 4, 8):
                if page.can_reduce(factor) and level.downsample * factor < 0.9 * coarser:
                    shape = (-(-level.shape[0] // factor), -(-level.shape[1] // factor))
                    downsample = (level.downsample_yx[0] * factor, level.downsample_yx[1] * factor)
                    self._sources += (Level(shape, downsample),)
                    self._tiles.append((page.tile[0] // factor, page.tile[1] // factor))
                    self._reduced.append((index, factor))

    def _decode(self, source: int, row: int, column: int, out: NDArray[np.uint8]) -> None:
        level, factor = (source, 1) if source < len(self.levels) else self._reduced[source - len(self.levels)]
        page = self._pages[level]
        number = row * page.across + column
        segments = page.segments(number)
        if any(count == 0 for _, count in segments):
            if level and self._in_finer[level][row, column]:
                self._read_finer(source, row, column, out)
            else:
                out[:] = GLASS  # never scanned
            return
        try:
            data = [self._file.read(count, offset) for offset, count in segments]
            if factor == 1:
                page.decode(number, data, out)
            else:
                page.decode_reduced(number, data[0], factor, out)
        except SlideError as err:  # the network's
            raise SlideError(f"{_place(page, level, row, column)}: {err.what}", err.remedy) from None
        except (*_BROKEN, RuntimeError, OSError, imagecodecs.DelayedImportError) as err:
            where = _place(page, level, row, column)
            msg = f"{self.path.name}: {where} cannot be decoded ({first_line(err)})"
            raise SlideError(msg, "the file is damaged there: copy it again from its source") from err

    @property
    def index_digest(self) -> str:
        counts = self._pages[0].counts.astype("<i8")  # bytes per compressed tile, which differ between any two scans
        return f"tiff:{hashlib.blake2b(counts.tobytes(), digest_size=16).hexdigest()}"

    def _read_finer(self, source: int, row: int, column: int, out: NDArray[np.uint8]) -> None:
        """Fill a tile that is missing in a level from the next finer source, as OpenSlide does for Aperio slides."""
        here, (tile_h, tile_w) = self._sources[source], self._tiles[source]
        y, x = row * tile_h, column * tile_w
        h, w = min(tile_h, here.shape[0] - y), min(tile_w, here.shape[1] - x)
        finer = coarsest(self._sources, _FINER * here.downsample)
        there = self._sources[finer]
        ratio_y, ratio_x = (a / b for a, b in zip(here.downsample_yx, there.downsample_yx, strict=True))
        left, right = x * ratio_x, min((x + w) * ratio_x, there.shape[1])
        x0, x1 = math.floor(left), math.ceil(right)
        rows = max(1, int(_STRIP_PX / ((x1 - x0) * ratio_y)))
        for first in range(0, h, rows):
            last = min(first + rows, h)
            top, bottom = (y + first) * ratio_y, min((y + last) * ratio_y, there.shape[0])
            y0, y1 = math.floor(top), math.ceil(bottom)
            pixels = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
            self._read_inside(finer, y0, x0, pixels)
            box = (left - x0, top - y0, right - x0, bottom - y0)
            scaled = Image.fromarray(pixels).resize((w, last - first), Image.Resampling.BOX, box=box)
            out[first:last, :w] = np.asarray(scaled)

    def close(self) -> None:
        self._file.close()
        super().close()


def _place(page: TiledLevel, level: int, row: int, column: int) -> str:
    return f"{'strip' if page.strips else 'tile'} (row {row}, column {column}) of level {level}"


def _stored_below(levels: tuple[Level, ...], pages: list[TiledLevel]) -> list[NDArray[np.bool_]]:
    """Return for each tile of each level whether a finer level has pixels at its place, (rows, columns) bool.

    In a sparse pyramid, a missing tile is filled from a finer level only there.
    """
    below = [np.zeros((pages[0].tiles // pages[0].across, pages[0].across), bool)]
    for (finer, page_finer), (level, page) in itertools.pairwise(zip(levels, pages, strict=True)):
        shape = (page.tiles // page.across, page.across)
        if (page.counts > 0).all():
            below.append(np.ones(shape, bool))  # none is missing: never asked
            continue
        stored = (page_finer.counts.reshape(-1, page_finer.tiles) > 0).all(axis=0).reshape(below[-1].shape) | below[-1]
        sums = np.pad(stored.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        edges = []
        for axis in (0, 1):
            scale = level.downsample_yx[axis] / finer.downsample_yx[axis] * page.tile[axis] / page_finer.tile[axis]
            bounds = np.arange(shape[axis] + 1) * scale
            first = np.minimum(np.floor(bounds[:-1] + 1e-6).astype(int), stored.shape[axis] - 1)
            edges.append((first, np.clip(np.ceil(bounds[1:] - 1e-6).astype(int), first + 1, stored.shape[axis])))
        (y0, y1), (x0, x1) = edges
        below.append(sums[np.ix_(y1, x1)] - sums[np.ix_(y0, x1)] - sums[np.ix_(y1, x0)] + sums[np.ix_(y0, x0)] > 0)
    return below


_BROKEN = (
    *(tifffile.TiffFileError, struct.error, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(AssertionError, MemoryError, NotImplementedError, StopIteration),
)
"""Errors that parsers raise on invalid tags and bytes."""


def _profile(page: tifffile.TiffPage) -> bytes | None:
    """Return the colour profile of a page; if its tag is broken, bytes that are no valid profile."""
    try:
        profile = page.tags.valueof(34675)
        return None if not profile else bytes(profile)
    except (*_BROKEN, OSError):
        return b"damaged"


def _read_beside(path: Path, page: int) -> NDArray[np.uint8]:
    try:
        return read_picture(path, page)
    except (*_BROKEN, RuntimeError, OSError) as err:
        msg = f"{path.name}: its label, macro or thumbnail cannot be decoded ({first_line(err)})"
        raise SlideError(msg, "the slide itself may still be intact") from err
