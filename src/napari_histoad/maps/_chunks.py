"""Chunks of a map's float32 arrays, written one by one as Zarr 3 lays them out.

zarr plans, encodes and stores a chunk in about a millisecond, on threads of its own that hold up those that decode and
score; a fast network would spend a third of its time on that. The bytes are the same. Arrays are made and read by zarr.
"""

from __future__ import annotations

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

__all__ = ["COMPRESSORS", "PARTIAL", "ChunkFiles", "WrittenChunk", "put_in_place"]

_LEVEL = 1
"""Scores that differ from tile to tile become no smaller at 3, zstd's default, but take twice as long."""

COMPRESSORS = (ZstdCodec(level=_LEVEL),)
"""How an array must be made to be written here: little-endian, with these compressors, NaN where there is nothing."""

PARTIAL = ".partial"
"""How the name of a file ends that is being written, or that a killed run left."""

_ZSTD = Zstd(level=_LEVEL)


class WrittenChunk(NamedTuple):
    """A chunk that is written and has not got its name yet."""

    partial: Path
    file: Path
    folders: tuple[Path, ...]
    """In which it, or a folder that was made for it, is a new name."""


class ChunkFiles:
    """The files of one array's chunks.

    Parameters
    ----------
    store : Path
        The folder of the store that holds the array.
    array : zarr.Array
        float32, made with `COMPRESSORS` and the fill value NaN.
    """

    def __init__(self, store: Path, array: zarr.Array[Any]) -> None:
        self._folder, self._shape, self._key = store / array.path, array.chunks, array.metadata.encode_chunk_key

    def file(self, *key: int) -> Path:
        """Return where a chunk lies; one of NaN alone has no file."""
        return self._folder / self._key(key)

    def write(self, key: tuple[int, ...], values: NDArray[np.float32]) -> WrittenChunk | None:
        """Write a chunk beside its file, which it replaces with `put_in_place`; None for one of NaN alone, which has no file.

        Parameters
        ----------
        key : tuple of int
            Which chunk, along each axis.
        values : float32
            The whole chunk; at the array's end, what of it lies inside.

        Raises
        ------
        MapError
            If the array is not there any more.
        """
        file = self.file(*key)
        if np.isnan(values).all():
            file.unlink(missing_ok=True)
            return None
        if values.shape != self._shape:
            inside, values = values, np.full(self._shape, np.nan, np.float32)
            values[tuple(slice(n) for n in inside.shape)] = inside
        partial = file.with_name(f"{file.name}.{uuid4().hex}{PARTIAL}")  # a slow worker may still write what another redoes
        folders: tuple[Path, ...] = (file.parent,)
        data = _ZSTD.encode(np.ascontiguousarray(values, "<f4"))
        try:
            partial.write_bytes(data)
        except FileNotFoundError as err:
            if not self._folder.exists():  # it comes with the map: what is written into a new one is never read
                msg = f"{self._folder} was deleted or moved while the map was written"
                raise MapError(msg, "put the map back to go on with it, or map the slide again") from err
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            folders = tuple(folder for folder in file.parents if folder.is_relative_to(self._folder))
        return WrittenChunk(partial, file, folders)


def put_in_place(chunks: Iterable[WrittenChunk | None], pool: ThreadPoolExecutor | None = None) -> None:
    """Give chunks their names when they are on the medium, and wait until the names are, too.

    Together: a file that is made while another is put on the medium has to wait for that.
    """
    each = map if pool is None else pool.map
    written = [chunk for chunk in chunks if chunk is not None]
    list(each(fsync_path, [chunk.partial for chunk in written]))
    for chunk in written:
        chunk.partial.replace(chunk.file)
    list(each(fsync_path, {folder for chunk in written for folder in chunk.folders}))
