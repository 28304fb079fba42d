"""Writing pyramidal tiled TIFFs band by band: memory depends only on the width of the slide."""

from __future__ import annotations

import queue
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile

from napari_histoad.jobs import Progress
from napari_histoad.system.atomic import atomic_path, lock_output

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_histoad.jobs import Job
    from napari_histoad.slide._base import Slide

BAND_PX = 1024
_TILE, _FACTOR = 256, 4
_SMALLEST_LEVEL_PX = 512
_JPEG_QUALITY = 87


def convert_job(slide: Slide, path: Path, *, lossless: bool = False) -> Job[Path]:
    """Copy any slide into a pyramidal tiled TIFF that opens everywhere.

    Parameters
    ----------
    slide : Slide
        Only level 0 is read.
    path : Path
        The file to write; an existing one is replaced when the copy is complete.
    lossless : bool
        Deflate instead of JPEG: the same pixels, but about five times the size.

    Raises
    ------
    SlideError
        If a part of the slide cannot be read.
    OutputError
        If the file cannot be written, or another run is writing it; no partial file is left.
    """
    height, width = slide.shape
    bands = (slide.read(0, y, 0, min(BAND_PX, height - y), width) for y in range(0, height, BAND_PX))
    with lock_output(path):
        return (yield from pyramid_job(path, bands, slide.shape, slide.mpp, title="Copying the slide", lossless=lossless))


def pyramid_job(
    path: Path,
    bands: Iterable[NDArray[np.uint8]],
    shape: tuple[int, int],
    mpp: float | None,
    *,
    title: str,
    lossless: bool = False,
) -> Job[Path]:
    """Write a pyramid from bands (BAND_PX, width, 3) uint8 of level 0, from top to bottom; the last one may have fewer rows.

    Each further level is a fourfold area mean of the one before. ``mpp`` is in µm per level-0 pixel; ``title`` is shown in
    progress reports; ``lossless`` stores by deflate instead of JPEG.
    """
    with atomic_path(path) as partial, tempfile.TemporaryDirectory(dir=path.parent, prefix=".histoad-") as scratch:
        yield from _write(partial, Path(scratch), bands, shape, mpp, title, lossless=lossless)
    return path


def _write(
    path: Path,
    scratch: Path,
    bands: Iterable[NDArray[np.uint8]],
    shape: tuple[int, int],
    mpp: float | None,
    title: str,
    *,
    lossless: bool,
) -> Job[None]:
    shapes = [shape]
    while max(shapes[-1]) > _SMALLEST_LEVEL_PX:
        shapes.append((-(-shapes[-1][0] // _FACTOR), -(-shapes[-1][1] // _FACTOR)))
    total = -(-shape[0] // BAND_PX)
    with _TiffBands(path, lossless=lossless) as tiff, ExitStack() as files:
        # Plain files instead of memory maps: on a full disk, a mapped page kills the process instead of raising an error.
        coarse: list[BinaryIO] = [files.enter_context((scratch / f"{i}").open("w+b")) for i in range(1, len(shapes))]
        tiff.start(shape, mpp, first=True)
        yield Progress(title, 0, total, "bands")
        for number, band in enumerate(bands, start=1):
            tiff.add(band)
            if coarse:
                coarse[0].write(_shrink(band).data)
            yield Progress(title, number, total, "bands")
        for index, (level, (height, width)) in enumerate(zip(coarse, shapes[1:], strict=True), start=1):
            tiff.start((height, width), None if mpp is None else mpp * _FACTOR**index, first=False)
            level.seek(0)
            for y in range(0, height, BAND_PX):
                rows = min(BAND_PX, height - y)
                band = np.frombuffer(level.read(rows * width * 3), np.uint8).reshape(rows, width, 3)
                tiff.add(band)
                if index < len(coarse):
                    coarse[index].write(_shrink(band).data)
        tiff.finish()


class _TiffBands:
    """Writes a TIFF band by band: tifffile takes its tiles from an iterator, in a thread that receives them through a queue."""

    def __init__(self, path: Path, *, lossless: bool) -> None:
        self._writer = tifffile.TiffWriter(path, bigtiff=True)
        self._lossless = lossless
        self._tiles: queue.Queue[bytes | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> _TiffBands:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
            elif self._thread is not None:  # stopped early: errors of the writer do not matter
                self._put(None)
                self._thread.join()
        finally:
            self._writer.close()

    def start(self, shape: tuple[int, int], mpp: float | None, *, first: bool) -> None:
        """Finish the current level and begin the next."""
        self.finish()
        # Bounded, so that tiles do not fill the memory if the disk is slow.
        band_tiles = -(-shape[1] // _TILE) * (BAND_PX // _TILE)
        self._tiles = queue.Queue(maxsize=2 * band_tiles)
        self._thread = threading.Thread(target=self._write, args=(shape, mpp), kwargs={"first": first}, daemon=True)
        self._thread.start()

    def add(self, band: NDArray[np.uint8]) -> None:
        """Encode the tiles of a band and pass them to the writer."""
        h, w = band.shape[:2]
        padded = np.pad(band, ((0, -h % _TILE), (0, -w % _TILE), (0, 0)), mode="edge")
        for y in range(0, padded.shape[0], _TILE):
            for x in range(0, padded.shape[1], _TILE):
                self._put(self._encode(np.ascontiguousarray(padded[y : y + _TILE, x : x + _TILE])))
        self._raise()

    def _encode(self, tile: NDArray[np.uint8]) -> bytes:
        if self._lossless:
            return bytes(imagecodecs.zlib_encode(imagecodecs.delta_encode(tile, axis=-2).tobytes(), level=4))
        return bytes(
            imagecodecs.jpeg8_encode(tile, level=_JPEG_QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="444")
        )

    def finish(self) -> None:
        """Wait until the current level is written."""
        if self._thread is not None:
            self._put(None)
            self._thread.join()
            self._thread = None
            self._raise()

    def _put(self, tile: bytes | None) -> None:
        while self._thread is not None and self._thread.is_alive():
            with suppress(queue.Full):
                self._tiles.put(tile, timeout=0.5)
                return

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self, shape: tuple[int, int], mpp: float | None, *, first: bool) -> None:
        coding: dict[str, Any] = (
            {"photometric": "rgb", "compression": "adobe_deflate", "predictor": True}
            if self._lossless
            else {"photometric": "ycbcr", "subsampling": (1, 1), "compression": "jpeg"}
        )
        size: dict[str, Any] = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
        try:
            self._writer.write(
                iter(self._tiles.get, None),
                shape=(*shape, 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                subfiletype=0 if first else 1,
                software="napari-histoad",
                metadata=None,
                **coding,
                **size,
            )
        except BaseException as err:  # noqa: BLE001 - raised again in the thread that adds bands
            self._error = err


def _shrink(band: NDArray[np.uint8]) -> NDArray[np.uint8]:
    h, w = band.shape[:2]
    padded = np.pad(band, ((0, -h % _FACTOR), (0, -w % _FACTOR), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // _FACTOR, _FACTOR, padded.shape[1] // _FACTOR, _FACTOR, 3)
    small: NDArray[np.uint8] = (blocks.mean(axis=(1, 3), dtype=np.float32) + 0.5).astype(np.uint8)
    return small
