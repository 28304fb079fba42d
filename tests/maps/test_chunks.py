"""Chunks are written as zarr would write them, whole or not at all."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from map_makers import fill, finish, make_map

from napari_histoad.maps._chunks import COMPRESSORS, ChunkFiles, commit_chunks


def _array(folder: Path, shape: tuple[int, ...], chunks: tuple[int, ...], separator: str = "/") -> zarr.Array:
    return zarr.create_array(
        folder,
        shape=shape,
        chunks=chunks,
        dtype="<f4",
        fill_value=np.nan,
        compressors=COMPRESSORS,
        filters=None,
        chunk_key_encoding={"name": "default", "separator": separator},
    )


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    side=st.integers(1, 4),
    separator=st.sampled_from("/."),
    seed=st.integers(0, 9),
)
@settings(max_examples=25)
def test_chunk_files_write_the_same_bytes_as_zarr(tmp_path_factory, shape, side, separator, seed):
    folder = tmp_path_factory.mktemp("chunks")
    rng = np.random.default_rng(seed)
    values = rng.random(shape, np.float32)
    values[rng.random(shape) < 0.5] = np.nan
    chunks = (side,) * len(shape)
    theirs, ours = (_array(folder / name, tuple(shape), chunks, separator) for name in "ab")
    theirs[...] = values
    files = ChunkFiles(folder / "b", ours)
    for key in np.ndindex(*theirs.cdata_shape):
        commit_chunks([files.write(key, values[tuple(slice(k * side, (k + 1) * side) for k in key)])])
    assert np.array_equal(np.asarray(ours[...]), values, equal_nan=True)
    of_zarr, of_ours = (
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (folder / "a", folder / "b")
    )
    assert of_ours == of_zarr


def test_chunk_files_delete_the_file_of_a_chunk_of_only_nan(tmp_path):
    files = ChunkFiles(tmp_path / "a", _array(tmp_path / "a", (4,), (4,)))
    commit_chunks([files.write((0,), np.ones(4, np.float32))])
    assert files.file(0).is_file()
    commit_chunks([files.write((0,), np.full(4, np.nan, np.float32))])
    assert not files.file(0).exists()


def test_chunk_files_keep_the_old_chunk_if_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    array = _array(tmp_path / "a", (4,), (4,))
    files = ChunkFiles(tmp_path / "a", array)
    commit_chunks([files.write((0,), np.ones(4, np.float32))])

    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as handle:
            handle.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        files.write((0,), np.zeros(4, np.float32))
    assert np.asarray(array[:]).tolist() == [1, 1, 1, 1]


def test_finish_job_removes_partial_files_of_a_killed_run(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    fill(result, range(result.block_count))
    left = result.path / "tiles" / "score" / "c.0.1234.partial"
    left.write_bytes(b"half")
    finish(result)
    assert not list(result.path.rglob("*.partial"))
