"""A file is whole or as it was."""

import os

import pytest

from napari_histoad.errors import OutputError
from napari_histoad.files import write_whole


def test_folders_are_made_and_what_was_there_is_replaced(tmp_path):
    file = tmp_path / "new" / "a.bin"
    write_whole(file, b"first")
    write_whole(file, b"second")
    assert file.read_bytes() == b"second"
    assert list(file.parent.iterdir()) == [file]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "a.bin"
    write_whole(file, b"first")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_whole(file, b"second")
    assert file.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [file]
