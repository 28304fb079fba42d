"""A cache of decoded tiles that many threads use."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

_CACHE_BYTES = 64 * 2**20
_SLAB_BYTES = 8 * 2**20
_SPARE_TILES = 4
_REMEMBERED = 512


def memory_for_tiles(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return memory for decoded tiles, (count, height, width, 3) uint8, that begins 16 bytes after a multiple of 32.

    If rows began at multiples of 32, libjpeg-turbo would write around the processor's caches (``vmovntdq`` in its colour
    conversion). Tiles are copied right after decoding: without the caches copying takes three times as long, decoding 10% longer.
    """
    size = count * height * width * 3
    raw = np.empty(size + 32, np.uint8)
    begin = (16 - raw.ctypes.data) % 32
    return raw[begin : begin + size].reshape(count, height, width, 3)


class _Entry:
    """A tile in the cache; the thread that decodes it holds the lock ``decoding``, on which others wait."""

    __slots__ = ("decoding", "failed", "pixels", "users")

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.users = 1
        self.failed = False
        self.decoding = threading.Lock()
        self.decoding.acquire()


class TileCache:
    """A cache of recently decoded tiles, bounded in bytes; no tile is decoded by two threads at once.

    Memory of released tiles is used again, and is allocated in slabs, for which the system uses large pages: allocating it
    tile by tile would take as long as decoding.
    """

    def __init__(self, capacity: int = _CACHE_BYTES) -> None:
        self._capacity = capacity
        self._reset()
        _CACHES.add(self)

    def _reset(self) -> None:
        self._passed: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._since_repeat = _REMEMBERED
        self._entries: OrderedDict[tuple[int, int], _Entry] = OrderedDict()
        self._free: dict[tuple[int, int], list[NDArray[np.uint8]]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def pass_by(self, key: tuple[int, int]) -> bool:
        """Return whether a tile that is read as a whole may be decoded without caching it.

        It may as long as none of the last few hundred tiles was requested twice. After the first that is, reads overlap, and all
        tiles are cached until again a few hundred were requested without a repetition.
        """
        if self._since_repeat < _REMEMBERED:
            return False
        with self._lock:
            if key in self._passed or key in self._entries:
                self._overlaps()
                return False
            self._passed[key] = None
            if len(self._passed) > _REMEMBERED:
                self._passed.popitem(last=False)
            return True

    def _overlaps(self) -> None:
        self._since_repeat = 0
        self._passed.clear()

    @contextmanager
    def tile(
        self, key: tuple[int, int], shape: tuple[int, int], decode: Callable[[NDArray[np.uint8]], None], *, wait: bool = True
    ) -> Iterator[NDArray[np.uint8] | None]:
        """Give access to a tile (level, number) of (height, width); if it is not cached, ``decode`` fills the given array.

        Without ``wait``, the value is None while another thread decodes the tile.
        """
        entry, mine = self._lease(key, shape)
        lent = entry.pixels
        try:
            if mine:
                try:
                    decode(entry.pixels)
                except BaseException:
                    entry.failed = True
                    raise
                finally:
                    entry.decoding.release()
            elif not entry.decoding.acquire(blocking=wait):
                yield None
                return
            else:
                entry.decoding.release()
                if entry.failed:  # in another thread: try again, to raise the error here too
                    lent = np.empty_like(entry.pixels)
                    decode(lent)
            yield lent
        finally:
            with self._lock:
                entry.users -= 1
                if entry.failed and self._entries.get(key) is entry:
                    del self._entries[key]
                    self._bytes -= entry.pixels.nbytes

    def _lease(self, key: tuple[int, int], shape: tuple[int, int]) -> tuple[_Entry, bool]:
        with self._lock:
            self._since_repeat += 1
            if key in self._passed:
                self._overlaps()
            entry = self._entries.get(key)
            if entry is not None and not entry.failed:
                if self._since_repeat < _REMEMBERED:
                    self._since_repeat = 0
                self._entries.move_to_end(key)
                entry.users += 1
                return entry, False
            if entry is not None:
                self._bytes -= entry.pixels.nbytes
            spare = self._free.setdefault(shape, [])
            if not spare:
                spare.extend(memory_for_tiles(max(1, _SLAB_BYTES // (3 * shape[0] * shape[1])), *shape))
            entry = _Entry(spare.pop())
            self._entries[key] = entry
            self._bytes += entry.pixels.nbytes
            self._shrink()
            return entry, True

    def _shrink(self) -> None:
        """Release the least recently used tiles; those in use stay."""
        if self._bytes <= self._capacity:
            return
        for key in [key for key, entry in itertools.islice(self._entries.items(), 64) if entry.users == 0]:
            pixels = self._entries.pop(key).pixels
            self._bytes -= pixels.nbytes
            spare = self._free.setdefault((pixels.shape[0], pixels.shape[1]), [])
            if len(spare) < _SPARE_TILES:
                spare.append(pixels)
            if self._bytes <= self._capacity:
                return

    def clear(self) -> None:
        """Release all tiles."""
        with self._lock:
            self._entries.clear()
            self._free.clear()
            self._bytes = 0
            self._passed.clear()
            self._since_repeat = _REMEMBERED


_CACHES: weakref.WeakSet[TileCache] = weakref.WeakSet()


def _reset_caches() -> None:
    for cache in _CACHES:
        cache._reset()


if hasattr(os, "register_at_fork"):
    # A lock that another thread held when the process was forked would stay locked forever in the child.
    os.register_at_fork(after_in_child=_reset_caches)
