"""The one writer of a map: blocks come in as they are computed and go to disk in a thread of their own.

A few times a second what has come in is written together: the tiles' rows, then the pyramid, then, when all of that is
known to be on the medium, the journal. A run that is killed, or a machine that loses power, costs what came in since.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoad.errors import MapError, writing
from napari_histoad.maps._blend import blend_grid
from napari_histoad.maps._chunks import ChunkFiles, put_in_place
from napari_histoad.maps._journal import Journal
from napari_histoad.maps._layout import BLOCK_TILES, halve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    import zarr
    from numpy.typing import NDArray

    from napari_histoad.maps._chunks import WrittenChunk
    from napari_histoad.maps._scored import ScoredTiles
    from napari_histoad.maps._store import AnomalyMap

    Box = tuple[int, int, int, int]
    _Write = Callable[[], WrittenChunk | None]

__all__ = ["MapWriter"]

_FIRST_S, _GATHER_S = 0.3, 0.5
"""Each chunk that blocks touch is written anew, so blocks are gathered; for the first of them somebody waits."""
_WAITING_BLOCKS, _MOST_BLOCKS = 128, 256
_FILES_AT_ONCE = 4
"""Files wait for the medium, on a network drive for long."""
_DENSE, _MOST_CELLS = 1.5, 2**21
_CACHED_BYTES = 64 * 2**20


class MapWriter:
    """Writes the blocks of one map; a context manager.

    Leaving it, also by an exception, writes what has come in. Errors of the thread are raised by the next call.

    Parameters
    ----------
    target : AnomalyMap
        Held by `napari_histoad.system.atomic.hold_output`.
    """

    def __init__(self, target: AnomalyMap) -> None:
        self._map = target
        self._queue: queue.Queue[ScoredTiles | None] = queue.Queue(_WAITING_BLOCKS)
        self._box: Box | None = None
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._pool = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="map-files")
        self._thread = threading.Thread(target=self._serve, name="map-writer", daemon=True)
        with writing(target.path):
            self._open()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop()
        if kind is None:
            self._raise()

    def add(self, block: ScoredTiles) -> None:
        """Take a block of scored tiles.

        Without error maps each tile is filled with its score, or another process has written them, see
        `AnomalyMap.write_error_maps`.
        """
        self._put(block)

    def written(self) -> Box | None:
        """Return the box (y0, x0, y1, x1) of finest cells that changed on disk since the last call."""
        self._raise()
        with self._lock:
            box, self._box = self._box, None
        return box

    def drain(self) -> None:
        """Wait until all that came in is stored; nothing can be added any more."""
        self._stop()
        self._raise()

    def _put(self, item: ScoredTiles) -> None:
        while True:
            self._raise()
            if not self._thread.is_alive():
                raise MapError(f"{self._map.path.name} takes no more blocks", "begin a new writer")
            with suppress(queue.Full):
                self._queue.put(item, timeout=0.5)
                return

    def _stop(self) -> None:
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=0.5)
                break
        self._thread.join()
        self._pool.shutdown()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _open(self) -> None:
        """Open what is written to."""
        target = self._map
        self._classes = [f"probability_{k}" for k in range(len(target.info.classes))]
        self._columns = {name: _Column(target.path, target.column(name)) for name in ("score", "p_value", *self._classes)}
        self._done, self._journal = target.finished_blocks(), Journal(target.path)
        self._journal.begin()
        self._recent: OrderedDict[int, NDArray[np.float32] | None] = OrderedDict()
        self._canvases = [_Canvas(target.path, level) for level in target.levels]
        self._cells = cells = target.geometry.tile_cells(target.origins)
        starts = np.arange(0, len(cells), BLOCK_TILES)
        self._first, self._last = np.minimum.reduceat(cells, starts), np.maximum.reduceat(cells, starts)

    def _serve(self) -> None:
        try:
            gather_s, block = _FIRST_S, self._queue.get()
            while block is not None:
                blocks, until = [block], time.monotonic() + gather_s
                with suppress(queue.Empty):
                    while len(blocks) < _MOST_BLOCKS:
                        block = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                        if block is None:
                            break
                        blocks.append(block)
                with writing(self._map.path):
                    self._store(blocks)
                if block is not None:
                    gather_s, block = _GATHER_S, self._queue.get()
        except Exception as err:  # noqa: BLE001 - raised again in the thread that feeds this one
            self._error = err

    def _store(self, blocks: list[ScoredTiles]) -> None:
        numbered = sorted(((int(block.index[0]) // BLOCK_TILES, block) for block in blocks), key=itemgetter(0))
        writes = []
        for number, block in numbered:
            self._done.add(number)
            if block.error_cells is not None:
                writes.append(self._pool.submit(self._map.write_error_maps, number, block.error_cells))
                self._remember(number, block.error_cells)
            first = int(block.index[0])
            self._columns["score"].put(first, block.scores)
            self._columns["p_value"].put(first, self._map.calibration.p_value(block.scores))
            if block.probabilities is not None:
                for name, values in zip(self._classes, block.probabilities.T, strict=True):
                    self._columns[name].put(first, values)
        put_in_place((write.result() for write in writes), self._pool)  # what is not remembered is read again
        writes.clear()
        for column in self._columns.values():
            writes += map(self._pool.submit, column.changed())
        boxes = self._boxes([number for number, _ in numbered])
        for box in boxes:
            self._render(box)
        writes += map(self._pool.submit, self._canvases[0].changed())
        for box in boxes:
            self._coarsen(box)
        for canvas in self._canvases[1:]:
            writes += map(self._pool.submit, canvas.changed())
        put_in_place((write.result() for write in writes), self._pool)
        self._journal.add(number for number, _ in numbered)
        for canvas in self._canvases:
            canvas.trim()
        with self._lock:
            for box in boxes:
                self._box = _union(self._box, box)

    def _boxes(self, blocks: list[int]) -> list[Box]:
        """Return the boxes of cells to render: those of blocks that follow each other are joined while that adds little."""
        ends = np.minimum(self._last + self._map.geometry.cells_per_tile, self._map.geometry.shape)
        joined: list[Box] = []
        cells = 0
        for (y0, x0), (y1, x1) in zip(self._first[blocks].tolist(), ends[blocks].tolist(), strict=True):
            box = (y0, x0, y1, x1)
            union = _union(joined[-1] if joined else None, box)
            if joined and _area(union) <= min(_MOST_CELLS, _DENSE * (cells + _area(box))):
                joined[-1], cells = union, cells + _area(box)
            else:
                joined.append(box)
                cells = _area(box)
        return joined

    # -- pyramid

    def _remember(self, block: int, error_maps: NDArray[np.float32] | None) -> None:
        self._recent[block] = error_maps
        self._recent.move_to_end(block)
        most = max(16, _CACHED_BYTES // (4 * BLOCK_TILES * self._map.geometry.cells_per_tile**2))
        while len(self._recent) > most:
            self._recent.popitem(last=False)

    def _error_maps(self, block: int) -> NDArray[np.float32] | None:
        if block not in self._recent:
            self._remember(block, self._map.error_maps(block))
        return self._recent[block]

    def _render(self, box: Box) -> None:
        geometry, (y0, x0, y1, x1) = self._map.geometry, box
        c, step = geometry.cells_per_tile, geometry.cells_per_step
        # All places of the grid from which a tile would reach the box; NaN: no tile, not yet scored, or not decodable.
        first, stop = (np.array([y0, x0]) - c) // step + 1, -(-np.array([y1, x1]) // step)
        near = (self._first < (y1, x1)).all(axis=1) & (self._last + c > (y0, x0)).all(axis=1)
        blocks = {other: self._error_maps(other) for other in self._done.intersection(np.flatnonzero(near).tolist())}
        by_cell = any(error_maps is not None for error_maps in blocks.values())
        grid = np.full((*(stop - first), c, c) if by_cell else stop - first, np.nan, np.float32)
        for other, error_maps in blocks.items():
            places = self._cells[other * BLOCK_TILES : (other + 1) * BLOCK_TILES] // step - first
            inside = ((places >= 0) & (places < stop - first)).all(axis=1)
            values = error_maps
            if values is None:
                scores = self._columns["score"].get(other * BLOCK_TILES, len(places))
                values = scores[:, None, None] if by_cell else scores
            grid[tuple(places[inside].T)] = values[inside]
        top, left = np.array([y0, x0]) - first * step
        total, weight = (sums[top : top + y1 - y0, left : left + x1 - x0] for sums in blend_grid(grid, geometry.window(), step))
        cells = np.full(total.shape, np.nan, np.float32)
        np.divide(total, weight, out=cells, where=(weight > 0) & self._map.tissue_cells(y0, x0, y1, x1))
        self._canvases[0].put(box, cells)

    def _coarsen(self, box: Box) -> None:
        """Render what is seen of a box from further away."""
        for finer, coarser in pairwise(self._canvases):
            box = (box[0] // 2, box[1] // 2, -(-box[2] // 2), -(-box[3] // 2))
            coarser.put(box, halve(finer.get((box[0] * 2, box[1] * 2, box[2] * 2, box[3] * 2))))


class _Column:
    """A column of the tile table: whole chunks in memory, written when they have changed."""

    def __init__(self, store: Path, array: zarr.Array[Any]) -> None:
        self._array, self._files, self._rows = array, ChunkFiles(store, array), int(array.chunks[0])
        self._chunks: dict[int, NDArray[np.float32]] = {}
        self._changed: set[int] = set()

    def get(self, first: int, count: int) -> NDArray[np.float32]:
        """Return rows that lie in one chunk."""
        number = first // self._rows
        if number not in self._chunks:
            self._chunks[number] = _read(self._array, self._files, (number,), (self._region(number),))
        start = first - number * self._rows
        return self._chunks[number][start : start + count]

    def put(self, first: int, values: NDArray[np.float32]) -> None:
        """Set rows that lie in one chunk."""
        self.get(first, len(values))[:] = values
        self._changed.add(first // self._rows)

    def changed(self) -> list[_Write]:
        """Return what writes a chunk, for each that has changed since."""
        writes: list[_Write] = [partial(self._files.write, (k,), self._chunks[k]) for k in sorted(self._changed)]
        self._changed.clear()
        return writes

    def _region(self, number: int) -> slice:
        return slice(number * self._rows, min((number + 1) * self._rows, self._array.shape[0]))


class _Canvas:
    """One level of the pyramid: whole chunks in memory, bounded, written when they have changed."""

    def __init__(self, store: Path, array: zarr.Array[Any]) -> None:
        self._array, self._files = array, ChunkFiles(store, array)
        self._side: tuple[int, int] = (array.chunks[0], array.chunks[1])
        self._chunks: OrderedDict[tuple[int, int], NDArray[np.float32]] = OrderedDict()
        self._changed: set[tuple[int, int]] = set()

    def get(self, box: Box) -> NDArray[np.float32]:
        """Return cells; the box may reach over the end, where it is cut."""
        y0, x0, y1, x1 = *box[:2], min(box[2], self._array.shape[0]), min(box[3], self._array.shape[1])
        out = np.empty((y1 - y0, x1 - x0), np.float32)
        for key, inside, outside in self._parts((y0, x0, y1, x1)):
            out[outside] = self._chunk(key)[inside]
        return out

    def put(self, box: Box, values: NDArray[np.float32]) -> None:
        """Set cells."""
        for key, inside, outside in self._parts(box):
            self._chunk(key)[inside] = values[outside]
            self._changed.add(key)

    def changed(self) -> list[_Write]:
        """Return what writes a chunk, for each that has changed since."""
        writes: list[_Write] = [partial(self._files.write, key, self._chunks[key]) for key in sorted(self._changed)]
        self._changed.clear()
        return writes

    def trim(self) -> None:
        """Forget the chunks that were not used for longest; what was changed must have been written."""
        most = max(4, _CACHED_BYTES // (4 * self._side[0] * self._side[1]))
        while len(self._chunks) > most:
            self._chunks.popitem(last=False)

    def _region(self, key: tuple[int, int]) -> tuple[slice, slice]:
        (row, column), (h, w), (height, width) = key, self._side, self._array.shape
        return slice(row * h, min((row + 1) * h, height)), slice(column * w, min((column + 1) * w, width))

    def _chunk(self, key: tuple[int, int]) -> NDArray[np.float32]:
        if key not in self._chunks:
            self._chunks[key] = _read(self._array, self._files, key, self._region(key))
        self._chunks.move_to_end(key)
        return self._chunks[key]

    def _parts(self, box: Box) -> Iterator[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
        (y0, x0, y1, x1), (h, w) = box, self._side
        for row in range(y0 // h, -(-y1 // h)):
            for column in range(x0 // w, -(-x1 // w)):
                a0, b0, a1, b1 = max(y0, row * h), max(x0, column * w), min(y1, (row + 1) * h), min(x1, (column + 1) * w)
                inside = (slice(a0 - row * h, a1 - row * h), slice(b0 - column * w, b1 - column * w))
                yield (row, column), inside, (slice(a0 - y0, a1 - y0), slice(b0 - x0, b1 - x0))


def _read(array: zarr.Array[Any], files: ChunkFiles, key: tuple[int, ...], region: tuple[slice, ...]) -> NDArray[np.float32]:
    """Return a chunk; one that has no file yet is NaN, as zarr reads it, in no time."""
    if files.file(*key).exists():
        return np.array(array[region], np.float32)
    return np.full([part.stop - part.start for part in region], np.nan, np.float32)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _union(a: Box | None, b: Box) -> Box:
    if a is None:
        return b
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
