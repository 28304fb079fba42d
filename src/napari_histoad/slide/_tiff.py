"""TIFF slides by direct tile decoding.

The tags are parsed once; after that a tile is one positional read and one decode, without the GIL.
"""

from __future__ import annotations

import math
import os
import struct
from typing import TYPE_CHECKING, ClassVar

import imagecodecs
import numpy as np
import tifffile

from napari_histoad.errors import SlideError
from napari_histoad.slide._base import Level, make_levels
from napari_histoad.slide._colour import GLASS
from napari_histoad.slide._file import PositionalFile
from napari_histoad.slide._remote import RemoteFile, is_remote, open_binary
from napari_histoad.slide._tiff_layout import check_chain, read_layout
from napari_histoad.slide._tiff_tiles import parse_level
from napari_histoad.slide._tiled import TiledSlide

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


__all__ = ["TiffSlide"]


class TiffSlide(TiledSlide):
    """An 8-bit RGB TIFF in tiles or strips: plain, BigTIFF, SVS, NDPI, SCN, Philips, QPTIFF or OME-TIFF.

    Raises
    ------
    UnsupportedTiffError
        If the TIFF is of another kind (grey, 16 bit, fluorescence, several scans on one canvas, …).
    SlideError
        If its structure is broken.
    """

    format: ClassVar[str] = "TIFF"

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        try:
            with open_binary(path) as handle:
                check_chain(handle)
                self._size = handle.seek(0, os.SEEK_END)
                handle.seek(0)
                tif = tifffile.TiffFile(handle)
                layout = read_layout(tif)
                self._pages = [parse_level(page) for page in layout.pages]
                icc = layout.pages[0].tags.valueof(34675)
        except _BROKEN as err:
            msg = f"{path.name} is not a readable TIFF ({_first_line(err)})"
            raise SlideError(msg, "the file may be cut short or damaged: copy it again from its source") from err
        except OSError as err:
            raise SlideError(f"{path.name} cannot be read ({_first_line(err)})", "check the disk or the network") from err
        self.format = layout.format  # type: ignore[misc]
        super().__init__(
            path,
            make_levels([level.shape for level in self._pages]),
            [level.tile for level in self._pages],
            file_mpp_yx=layout.mpp_yx,
            mpp=mpp,
            properties=layout.properties,
            icc_profile=bytes(icc) if icc else None,
        )
        self._check_extent()
        self._add_reduced()
        self._file = RemoteFile(path) if is_remote(path) else PositionalFile(path)
        for name, index in layout.associated.items():
            self._associated[name] = lambda index=index: _read_series(path, index)  # type: ignore[misc]

    def _check_extent(self) -> None:
        for index, level in enumerate(self._pages):
            end = int((level.offsets + level.counts).max())
            if end > self._size or int(level.offsets.min()) < 0 or int(level.counts.min()) < 0:
                msg = f"{self.path.name} is cut short: level {index} ends at byte {end:,}, the file at {self._size:,}"
                raise SlideError(msg, "copy the file again from its source")

    def _add_reduced(self) -> None:
        """Offer JPEG tiles in half, quarter and eighth size where the file has no level between."""
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
        if any(count == 0 for _, count in segments):  # sparse: never scanned
            out[:] = GLASS
            return
        try:
            data = [self._file.read(count, offset) for offset, count in segments]
            if factor == 1:
                page.decode(number, data, out)
            else:
                page.decode_reduced(number, data[0], factor, out)
        except (*_BROKEN, RuntimeError, OSError, imagecodecs.DelayedImportError) as err:
            kind = "strip" if page.strips else "tile"
            where = f"{kind} (row {row}, column {column}) of level {level}"
            msg = f"{self.path.name}: {where} cannot be decoded ({_first_line(err)})"
            raise SlideError(msg, "the file is damaged there: copy it again from its source") from err

    def close(self) -> None:
        self._file.close()
        super().close()


_BROKEN = (
    *(tifffile.TiffFileError, struct.error, ValueError, TypeError, LookupError, ArithmeticError, AttributeError),
    *(AssertionError, MemoryError, NotImplementedError, StopIteration),
)
"""What parsers raise on tags and bytes that make no sense."""


def _read_series(path: Path, index: int) -> NDArray[np.uint8]:
    try:
        with open_binary(path) as handle:
            image = tifffile.TiffFile(handle).series[index].keyframe.asarray()
    except (*_BROKEN, RuntimeError, OSError) as err:
        msg = f"{path.name}: a picture beside the slide cannot be decoded ({_first_line(err)})"
        raise SlideError(msg, "the slide itself may be whole all the same") from err
    rgb: NDArray[np.uint8] = np.ascontiguousarray(image[..., :3] if image.ndim == 3 else np.stack([image] * 3, axis=-1))
    return rgb


def _first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
