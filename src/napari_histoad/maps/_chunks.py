"""Chunks of a map's float32 arrays, written one by one in the format of Zarr 3.

zarr takes about a millisecond to write a chunk, in threads of its own that slow down those that decode and score: a fast
network would spend a third of its time on that. The bytes are the same. Arrays are made by zarr.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import numpy as np
from numcodecs import Zstd
from zarr.codecs import ZstdCodec

from napari_histoad.errors import MapError
from napari_histoad.system.atomic import fsync_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

_LEVEL = 1
"""Scores that differ from tile to tile become no smaller at 3, zstd's default, but take twice as long."""

COMPRESSORS = (ZstdCodec(level=_LEVEL),)
"""Of arrays that are written here; they must be little-endian float32 with the fill value NaN."""

PARTIAL = ".partial"
"""Ending of a file that is being written, or that a killed run has left."""

FILES_AT_ONCE = 4
"""Threads that write chunks: fsync waits for the disk; on a network drive that takes long."""

_ZSTD = Zstd(level=_LEVEL)


class WrittenChunk(NamedTuple):
    """A chunk that is written under a temporary name."""

    partial: Path
    file: Path
    folders: tuple[Path, ...]
    """Folders whose list of names changes with the chunk."""


class ChunkFiles:
    """The files of the chunks of one float32 array, made with `COMPRESSORS` and the fill value NaN, in a store's folder."""

    def __init__(self, store: Path, array: zarr.Array[Any]) -> None:
        self._folder, self._shape, self._key = store / array.path, array.chunks, array.metadata.encode_chunk_key

    def file(self, *key: int) -> Path:
        """Return the path of a chunk; a chunk of nothing but NaN has no file."""
        return self._folder / self._key(key)

    def read(self, *key: int) -> NDArray[np.float32]:
        """Return a chunk, float32, padded with NaN at the end of the array."""
        values = np.full(self._shape, np.nan, np.float32)
        with suppress(FileNotFoundError):
            values[...] = np.frombuffer(_ZSTD.decode(self.file(*key).read_bytes()), "<f4").reshape(self._shape)
        return values

    def write(self, key: tuple[int, ...], values: NDArray[np.float32]) -> WrittenChunk | None:
        """Write a chunk under a temporary name, for `commit_chunks`; None if it is nothing but NaN and has no file.

        ``values`` are the full chunk or its part inside the array. Raises `MapError` if the array was deleted or moved.
        """
        file = self.file(*key)
        if np.isnan(values).all():
            file.unlink(missing_ok=True)
            return None
        if values.shape != self._shape:
            inside, values = values, np.full(self._shape, np.nan, np.float32)
            values[tuple(slice(n) for n in inside.shape)] = inside
        partial = file.with_name(f"{file.name}.{uuid4().hex}{PARTIAL}")  # two workers may write the same chunk
        folders: tuple[Path, ...] = (file.parent,)
        data = _ZSTD.encode(np.ascontiguousarray(values, "<f4"))
        try:
            partial.write_bytes(data)
        except FileNotFoundError as err:
            if not self._folder.exists():  # made with the map: do not bring back one that is gone
                msg = f"{self._folder} was deleted or moved while the map was written"
                raise MapError(msg, "put the map back to continue it, or map the slide again") from err
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            folders = tuple(folder for folder in file.parents if folder.is_relative_to(self._folder))
        return WrittenChunk(partial, file, folders)


def commit_chunks(chunks: Iterable[WrittenChunk | None], pool: ThreadPoolExecutor | None = None) -> None:
    """Rename written chunks into place; all is flushed to disk when this returns.

    All together: a new file has to wait while the disk flushes another one.
    """
    each = map if pool is None else pool.map
    written = [chunk for chunk in chunks if chunk is not None]
    list(each(fsync_path, [chunk.partial for chunk in written]))
    for chunk in written:
        chunk.partial.replace(chunk.file)
    list(each(fsync_path, {folder for chunk in written for folder in chunk.folders}))
