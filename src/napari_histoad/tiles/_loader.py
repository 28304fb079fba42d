"""Reading the pixels of tiles in batches, decoded by background threads."""

from __future__ import annotations

import math
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import SlideError
from napari_histoad.slide import GLASS, memory_for_tiles
from napari_histoad.system.host import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

    from napari_histoad.slide import Slide
    from napari_histoad.tiles._grid import TileGrid

_TILES_AHEAD, _BATCHES_AHEAD = 64, 3
_JOBS_PER_THREAD = 4


@dataclass(frozen=True)
class TileBatch:
    """A batch of decoded tiles.

    Attributes
    ----------
    images : (B, H, W, 3) uint8
        Mirrored beyond the slide's border. Valid until the next batch is requested (see ``keep``), because buffers are reused.
    index : (B,) int64
        Rows of the grid.
    failed : (B,) bool
        True for tiles that could not be decoded; their pixels are white.
    """

    images: NDArray[np.uint8]
    index: NDArray[np.int64]
    failed: NDArray[np.bool_]


@dataclass(frozen=True)
class UndecodedBatch:
    """A batch of tiles that are not decoded yet."""

    index: NDArray[np.int64]  # (B,), rows of the grid
    runs: list[slice]  # parts of it that are read together: overlapping neighbours in a row


class TileLoader:
    """Iterates over batches of tiles, while threads decode the next batches.

    If there are as many computing threads as decoding ones, it is faster for each to decode its own batches, without passing
    them between threads: see `undecoded` and `decode`.

    Parameters
    ----------
    slide : Slide
    grid : TileGrid
    batch : int
        Tiles per batch; the last one of an index list may be smaller.
    index : (N,) int64, optional
        Rows of the grid to read, in this order; default all.
    allocate : callable, optional
        Takes a shape and returns a uint8 array to decode into, such as pinned memory for a GPU.
    keep : int
        Number of batches that stay valid after the next one has been requested.
    """

    def __init__(
        self,
        slide: Slide,
        grid: TileGrid,
        *,
        batch: int = 16,
        index: NDArray[np.int64] | None = None,
        allocate: Callable[[tuple[int, ...]], NDArray[np.uint8]] | None = None,
        keep: int = 0,
    ) -> None:
        self._allocate, self._keep = allocate or _memory, keep
        self._slide, self._grid, self._batch = slide, grid, batch
        self._index = np.arange(len(grid), dtype=np.int64) if index is None else index
        self._threads = usable_cores()
        self._shape = (batch, grid.tile_px, grid.tile_px, 3)
        self._own = threading.local()
        self.errors: list[SlideError] = []

    def __len__(self) -> int:
        return -(-len(self._index) // self._batch)

    def undecoded(self) -> Iterator[UndecodedBatch]:
        """Yield the batches to be decoded, in order."""
        y, x = self._grid.origins[self._index].T
        step = np.diff(x)
        alone = (np.diff(y) != 0) | (step <= 0) | (step >= self._grid.tile_l0)
        for first in range(0, len(self._index), self._batch):
            rows = self._index[first : first + self._batch]
            ends = np.flatnonzero(alone[first : first + len(rows) - 1]) + 1
            yield UndecodedBatch(rows, [slice(a, b) for a, b in pairwise((0, *ends.tolist(), len(rows)))])

    def decode(self, batch: UndecodedBatch) -> TileBatch:
        """Decode a batch in this thread; its images are valid until this thread decodes the next."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = self._allocate(self._shape)
        decoded = self._decode_runs(batch.index, self._own.buffer, batch.runs)
        return TileBatch(self._own.buffer[: len(batch.index)], batch.index, ~np.array(decoded))

    def _decode_runs(self, rows: NDArray[np.int64], outs: NDArray[np.uint8], runs: list[slice]) -> list[bool]:
        return [decoded for run in runs for decoded in self._decode(rows[run], outs[run])]

    def _decode(self, rows: NDArray[np.int64], outs: NDArray[np.uint8]) -> list[bool]:
        """Fill (R, H, W, 3) with a run of tiles; return for each whether it could be decoded."""
        side = self._grid.tile_l0
        if len(rows) > 1:
            origins = self._grid.origins[rows].tolist()
            try:
                self._slide.read_scaled_row(origins[0][0], [x for _, x in origins], side, side, list(outs))
            except SlideError:
                pass  # which tile it is, is found out below
            else:
                for (y, x), out in zip(origins, outs, strict=True):
                    self._mirror(y, x, out)
                return [True] * len(rows)
        return [self._decode_one(int(row), out) for row, out in zip(rows, outs, strict=True)]

    def _decode_one(self, row: int, out: NDArray[np.uint8]) -> bool:
        y, x = (int(v) for v in self._grid.origins[row])
        side = self._grid.tile_l0
        try:
            self._slide.read_scaled(y, x, side, side, out.shape[:2], out=out)
            self._mirror(y, x, out)
        except SlideError as err:
            self.errors.append(err)
            out[:] = GLASS
            return False
        return True

    def _mirror(self, y: int, x: int, out: NDArray[np.uint8]) -> None:
        """Fill a tile beyond the slide's border by reflection: white there would make cut tissue look anomalous."""
        slide, ratio = self._slide.shape, self._grid.tile_l0 / self._grid.tile_px
        inside = [max(1, math.floor((n - first) / ratio)) for n, first in zip(slide, (y, x), strict=True)]
        for axis, (n, side) in enumerate(zip(inside, out.shape[:2], strict=True)):
            if n < side:
                beyond = np.arange(n, side) % (2 * n)
                lines = out if axis == 0 else out.swapaxes(0, 1)
                lines[n:] = lines[np.minimum(beyond, 2 * n - 1 - beyond)]

    def __iter__(self) -> Generator[TileBatch]:
        ahead = max(_BATCHES_AHEAD, _TILES_AHEAD // self._batch)
        per_job = max(1, ahead * self._batch // (_JOBS_PER_THREAD * self._threads))
        free = [self._allocate(self._shape) for _ in range(min(ahead + 1 + self._keep, len(self)))]
        lent: deque[NDArray[np.uint8]] = deque()
        waiting: deque[tuple[NDArray[np.int64], NDArray[np.uint8], list[Future[list[bool]]]]] = deque()
        todo = self.undecoded()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        try:
            while True:
                while free and (part := next(todo, None)) is not None:
                    buffer = free.pop()
                    jobs = [pool.submit(self._decode_runs, part.index, buffer, runs) for runs in _grouped(part.runs, per_job)]
                    waiting.append((part.index, buffer, jobs))
                if not waiting:
                    return
                rows, buffer, jobs = waiting.popleft()
                failed = ~np.concatenate([job.result() for job in jobs])
                yield TileBatch(buffer[: len(rows)], rows, failed)
                lent.append(buffer)
                if len(lent) > self._keep:
                    free.append(lent.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _grouped(runs: list[slice], tiles: int) -> Iterator[list[slice]]:
    """Yield the runs in groups of at least ``tiles`` tiles; the last may be smaller."""
    group: list[slice] = []
    for run in runs:
        group.append(run)
        if run.stop - group[0].start >= tiles:
            yield group
            group = []
    if group:
        yield group


def _memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return memory_for_tiles(*shape[:3])
