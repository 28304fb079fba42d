"""Bytes of a file for many threads, and the tiles decoded from them."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PositionalFile", "TileCache"]

_CACHE_BYTES = 128 * 2**20


class PositionalFile:
    """Positional reads that any number of threads, and forked children, may issue at once."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, os.close, self._fd)

    def read(self, count: int, offset: int) -> bytes:
        """Return ``count`` bytes, fewer at the end of the file."""
        if not self.close.alive:
            raise OSError("the slide has been closed")
        if hasattr(os, "pread"):
            return os.pread(self._fd, count, offset)
        with self._lock:  # Windows has no pread
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, count)


class TileCache:
    """Recently decoded tiles, bounded in bytes."""

    def __init__(self, capacity: int = _CACHE_BYTES) -> None:
        self._capacity = capacity
        self._reset()
        _CACHES.add(self)

    def _reset(self) -> None:
        self._tiles: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Return the tile (level, number) if it is at hand."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: tuple[int, int], tile: NDArray[np.uint8]) -> None:
        """Keep a tile, and let go of those not asked for the longest."""
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._capacity and len(self._tiles) > 1:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Let go of all tiles."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


_CACHES: weakref.WeakSet[TileCache] = weakref.WeakSet()


def _reset_caches() -> None:
    for cache in _CACHES:
        cache._reset()


if hasattr(os, "register_at_fork"):
    # A lock that another thread held while the process was forked would stay locked for ever in the child.
    os.register_at_fork(after_in_child=_reset_caches)
