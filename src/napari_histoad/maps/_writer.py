"""The writer of a map: a background thread writes blocks of scored tiles as they are computed.

A few times a second, all blocks that have arrived are written together: error maps and columns of the tile table, then,
once these are flushed to disk, the journal. After a kill or a power failure only the blocks that are not in the journal are
scored again.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoad.errors import MapError, writing
from napari_histoad.maps._chunks import FILES_AT_ONCE, ChunkFiles, commit_chunks
from napari_histoad.maps._journal import Journal
from napari_histoad.maps._layout import BLOCK_TILES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    import zarr
    from numpy.typing import NDArray

    from napari_histoad.maps._anomaly_map import AnomalyMap
    from napari_histoad.maps._chunks import WrittenChunk
    from napari_histoad.maps._scored_tiles import ScoredTiles

    Box = tuple[int, int, int, int]

_FIRST_S, _GATHER_S = 0.3, 0.5
"""Blocks are gathered for this long, as every chunk they touch is written anew; the first ones are shown sooner."""
_WAITING_BLOCKS, _MOST_BLOCKS = 128, 256


def write_error_maps(target: AnomalyMap, block: ScoredTiles) -> None:
    """Write the error maps of a block, if it has any, and flush them to disk.

    Several processes may do so for different blocks at once. Afterwards, pass the block without error maps to `MapWriter.add`.
    """
    with writing(target.path):
        commit_chunks([_write_errors(target, block)])


def _write_errors(target: AnomalyMap, block: ScoredTiles) -> WrittenChunk | None:
    if block.error_cells is None:
        return None
    return target.error_chunks.write((int(block.index[0]) // BLOCK_TILES, 0, 0), block.error_cells)


class MapWriter:
    """Writes the blocks of one map, whose lock this process holds (see `lock_output`); a context manager.

    On exit, also after an exception, all blocks that were added are written. Errors in the thread are raised by the next call.
    """

    def __init__(self, target: AnomalyMap) -> None:
        self._map, self._similar = target, target.calibration.made_valid_for("similar")
        self._queue: queue.Queue[ScoredTiles | None] = queue.Queue(_WAITING_BLOCKS)
        self._box: Box | None = None
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="map-files")
        self._thread = threading.Thread(target=self._serve, name="map-writer", daemon=True)
        with writing(target.path):
            self._classes = [f"probability_{k}" for k in range(len(target.info.classes))]
            self._columns = {name: _Column(target.path, target.column(name)) for name in ("score", "p_value", *self._classes)}
            self._journal = Journal(target.path)
            self._journal.begin()
            self._cells = target.geometry.tile_cells(target.origins)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop()
        if kind is None:
            self._raise()

    def add(self, block: ScoredTiles) -> None:
        """Take a block of scored tiles; its error maps may have been written by another process, see `write_error_maps`."""
        while True:
            self._raise()
            if not self._thread.is_alive():
                raise MapError(f"{self._map.path.name} takes no more blocks", "begin a new writer")
            with suppress(queue.Full):
                self._queue.put(block, timeout=0.5)
                return

    def written(self) -> Box | None:
        """Return the box (y0, x0, y1, x1) of finest cells whose scores were written to disk since the last call."""
        self._raise()
        with self._lock:
            box, self._box = self._box, None
        return box

    def drain(self) -> None:
        """Wait until all added blocks are written; no more can be added afterwards."""
        self._stop()
        self._raise()

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
        writes = [self._pool.submit(_write_errors, self._map, block) for block in blocks]
        for block in blocks:
            first = int(block.index[0])
            self._columns["score"].put(first, block.scores)
            self._columns["p_value"].put(first, self._similar.p_value(block.scores))
            if block.probabilities is not None:
                for name, values in zip(self._classes, block.probabilities.T, strict=True):
                    self._columns[name].put(first, values)
        for column in self._columns.values():
            writes += map(self._pool.submit, column.changed())
        commit_chunks((write.result() for write in writes), self._pool)
        self._journal.add(sorted(int(block.index[0]) // BLOCK_TILES for block in blocks))
        cells = self._cells[np.concatenate([block.index for block in blocks])]
        ends = np.minimum(cells.max(axis=0) + self._map.geometry.cells_per_tile, self._map.geometry.shape)
        with self._lock:
            y0, x0, y1, x1 = self._box or (*cells[0].tolist(), 0, 0)
            (top, left), (bottom, right) = cells.min(axis=0).tolist(), ends.tolist()
            self._box = (min(y0, top), min(x0, left), max(y1, bottom), max(x1, right))


class _Column:
    """A column of the tile table: its chunks in memory, written when they have changed."""

    def __init__(self, store: Path, array: zarr.Array[Any]) -> None:
        self._files, self._rows = ChunkFiles(store, array), int(array.chunks[0])
        self._chunks: dict[int, NDArray[np.float32]] = {}
        self._changed: set[int] = set()

    def put(self, first: int, values: NDArray[np.float32]) -> None:
        """Set rows that are in one chunk."""
        number, start = divmod(first, self._rows)
        if number not in self._chunks:
            self._chunks[number] = self._files.read(number)
        self._chunks[number][start : start + len(values)] = values
        self._changed.add(number)

    def changed(self) -> Sequence[Callable[[], WrittenChunk | None]]:
        """Return a function for each chunk that has changed since the last call, which writes it."""
        changed, self._changed = sorted(self._changed), set()
        return [partial(self._files.write, (k,), self._chunks[k]) for k in changed]
