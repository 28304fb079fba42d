"""The sample slide as a pyramidal JPEG TIFF, with its outlines beside it."""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import tifffile

from napari_histoad.errors import writing
from napari_histoad.jobs import Progress, run
from napari_histoad.regions import write_geojson
from napari_histoad.samples._draw import draw_block
from napari_histoad.samples._plan import SlidePlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from numpy.typing import NDArray

    from napari_histoad.jobs import Job

__all__ = ["sample_job", "write_sample"]

_TILE, _BAND, _FACTOR = 256, 1024, 4
_SMALLEST_LEVEL_PX = 512


def write_sample(path: str | PathLike[str], size_px: int = 8192, seed: int = 0, *, anomalies: bool = True) -> Path:
    """Write a sample slide and return its path; see `sample_job`."""
    return run(sample_job(path, SlidePlan(size_px, seed, anomalies)))


def sample_job(path: str | PathLike[str], plan: SlidePlan) -> Job[Path]:
    """Write the slide ``path`` (.tif), ``<stem>.truth.geojson`` and ``<stem>.normal.geojson``.

    The slide is drawn band by band: memory grows with its width only. The same plan gives the same bytes of pixels.

    Raises
    ------
    OutputError
        If a file cannot be written; nothing half-written is left under the final name.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".histoad-") as scratch:
            yield from _write_tiff(partial, plan, Path(scratch))
            partial.replace(target)
    finally:
        with contextlib.suppress(OSError):  # on a read-only medium; what matters has been raised already
            partial.unlink()
    if plan.planted:
        write_geojson(plan.planted, target.with_name(f"{target.stem}.truth.geojson"))
    write_geojson(plan.normal, target.with_name(f"{target.stem}.normal.geojson"))
    return target


def _write_tiff(path: Path, plan: SlidePlan, scratch: Path) -> Iterator[Progress]:
    shapes = [(plan.size_px, plan.size_px)]
    while max(shapes[-1]) > _SMALLEST_LEVEL_PX:
        shapes.append((-(-shapes[-1][0] // _FACTOR), -(-shapes[-1][1] // _FACTOR)))
    bands = range(0, plan.size_px, _BAND)
    with TiffBands(path) as tiff, ThreadPoolExecutor(os.cpu_count()) as pool, contextlib.ExitStack() as files:
        # Plain files, not mapped ones: on a full disk a mapped page kills the process instead of raising.
        coarse = [files.enter_context((scratch / f"level{i}").open("w+b")) for i in range(1, len(shapes))]
        tiff.start(shapes[0], plan.mpp, first=True)
        for number, y0 in enumerate(bands):
            yield Progress("Drawing the sample slide", number, len(bands), "bands")
            h = min(_BAND, plan.size_px - y0)

            def draw(x0: int, y0: int = y0, h: int = h) -> NDArray[np.uint8]:
                return draw_block(plan, y0, x0, h, min(_BAND, plan.size_px - x0))

            band = np.concatenate(list(pool.map(draw, range(0, plan.size_px, _BAND))), axis=1)
            tiff.add(band)
            if coarse:
                coarse[0].write(_shrink(band).data)
        for index, (level, (height, width)) in enumerate(zip(coarse, shapes[1:], strict=True), start=1):
            tiff.start((height, width), plan.mpp * _FACTOR**index, first=False)
            level.seek(0)
            for y0 in range(0, height, _BAND):
                rows = min(_BAND, height - y0)
                band = np.frombuffer(level.read(rows * width * 3), np.uint8).reshape(rows, width, 3)
                tiff.add(band)
                if index < len(coarse):
                    coarse[index].write(_shrink(band).data)
        tiff.finish()
    yield Progress("Drawing the sample slide", len(bands), len(bands), "bands")


class TiffBands:
    """A TIFF written band by band: tifffile pulls tiles from an iterator, here in a thread that is fed band by band."""

    def __init__(self, path: Path) -> None:
        self._writer = tifffile.TiffWriter(path, bigtiff=True)
        self._tiles: queue.Queue[bytes | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> TiffBands:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
            elif self._thread is not None:  # cut short: what the writer misses is of no interest
                self._put(None)
                self._thread.join()
        finally:
            self._writer.close()

    def start(self, shape: tuple[int, int], mpp: float, *, first: bool) -> None:
        """Finish the level at hand and begin the next."""
        self.finish()
        # Bounded: a fast painter must not fill the memory before a slow disk.
        band_tiles = -(-shape[1] // _TILE) * (_BAND // _TILE)
        self._tiles = queue.Queue(maxsize=2 * band_tiles)
        self._thread = threading.Thread(target=self._write, args=(shape, mpp, first), daemon=True)
        self._thread.start()

    def add(self, band: NDArray[np.uint8]) -> None:
        """Encode the tiles of a band and hand them to the writer."""
        h, w = band.shape[:2]
        padded = np.pad(band, ((0, -h % _TILE), (0, -w % _TILE), (0, 0)), mode="edge")
        for y in range(0, padded.shape[0], _TILE):
            for x in range(0, padded.shape[1], _TILE):
                tile = np.ascontiguousarray(padded[y : y + _TILE, x : x + _TILE])
                encoded = imagecodecs.jpeg8_encode(tile, level=87, colorspace="RGB", outcolorspace="YCBCR", subsampling="444")
                self._put(bytes(encoded))
        self._raise()

    def finish(self) -> None:
        """Wait until the level at hand is on disk."""
        if self._thread is not None:
            self._put(None)
            self._thread.join()
            self._thread = None
            self._raise()

    def _put(self, tile: bytes | None) -> None:
        while self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._tiles.put(tile, timeout=0.5)
                return

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self, shape: tuple[int, int], mpp: float, first: bool) -> None:  # noqa: FBT001 - a thread's arguments
        try:
            self._writer.write(
                iter(self._tiles.get, None),
                shape=(*shape, 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                photometric="ycbcr",
                subsampling=(1, 1),
                compression="jpeg",
                subfiletype=0 if first else 1,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                software="napari-histoad",
                metadata=None,
            )
        except BaseException as err:  # noqa: BLE001 - raised again in the thread that feeds this one
            self._error = err


def _shrink(band: NDArray[np.uint8]) -> NDArray[np.uint8]:
    h, w = band.shape[:2]
    padded = np.pad(band, ((0, -h % _FACTOR), (0, -w % _FACTOR), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // _FACTOR, _FACTOR, padded.shape[1] // _FACTOR, _FACTOR, 3)
    small: NDArray[np.uint8] = (blocks.mean(axis=(1, 3), dtype=np.float32) + 0.5).astype(np.uint8)
    return small
