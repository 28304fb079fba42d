"""Slides that are stored in tiles; decoded tiles are cached."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_histoad.slide._base import Slide
from napari_histoad.slide._tile_cache import TileCache, memory_for_tiles

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from napari_histoad.slide._base import Level


class TiledSlide(Slide):
    """A slide that is read tile by tile, of (height, width) per level; a subclass implements how one tile is decoded."""

    def __init__(self, path: Path, levels: tuple[Level, ...], tiles: list[tuple[int, int]], **rest: Any) -> None:
        super().__init__(path, levels, **rest)
        self._tiles = tiles
        self._cache = TileCache()
        self._threads = threading.local()

    @abstractmethod
    def _decode(self, source: int, row: int, column: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` (tile_h, tile_w, 3), contiguous, with one tile; pixels outside the level are arbitrary."""

    def _read_inside(self, source: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
        (tile_h, tile_w), (h, w) = self._tiles[source], out.shape[:2]
        across = -(-self._sources[source].shape[1] // tile_w)
        rows = range(y // tile_h, (y + h - 1) // tile_h + 1)
        columns = range(x // tile_w, (x + w - 1) // tile_w + 1)
        todo = deque((row, column, False) for row in rows for column in columns)
        while todo:
            row, column, last = todo.popleft()
            top, left = row * tile_h - y, column * tile_w - x
            y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + tile_h, h), min(left + tile_w, w)
            target = out[y0:y1, x0:x1]
            key, decode = (source, row * across + column), partial(self._decode, source, row, column)
            if target.shape[:2] == (tile_h, tile_w) and self._cache.pass_by(key):
                if target.flags.c_contiguous:
                    decode(target)
                else:
                    scratch = self._scratch(tile_h, tile_w)
                    decode(scratch)
                    target[:] = scratch
                continue
            with self._cache.tile(key, (tile_h, tile_w), decode, wait=last) as tile:
                if tile is None:  # another thread is decoding it: read the other tiles first
                    todo.append((row, column, True))
                else:
                    target[:] = tile[y0 - top : y1 - top, x0 - left : x1 - left]

    def _scratch(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return this thread's buffer for one tile: used again and again, it stays in the processor's caches."""
        known: NDArray[np.uint8] | None = getattr(self._threads, "tile", None)
        if known is None or known.shape[:2] != (height, width):
            (known,) = memory_for_tiles(1, height, width)
            self._threads.tile = known
        return known

    def overview(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the whole slide resampled to ``shape``, and release the tiles read for it."""
        try:
            return super().overview(shape)
        finally:
            self.forget_tiles()

    def forget_tiles(self) -> None:
        self._cache.clear()

    def close(self) -> None:
        self._cache.clear()
