"""A file is whole or as it was, also when the power fails."""

import errno
import os
import stat
import subprocess
import sys

import pytest

from napari_histoad.errors import OutputError
from napari_histoad.system.atomic import hold_output, whole_folder, write_whole


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


@pytest.mark.parametrize("names_first", [True, False])
def test_when_the_power_fails_a_file_is_as_it_was_or_as_it_is(tmp_path, medium, names_first):
    file, seen = medium.folder / "a.bin", []
    write_whole(file, b"first")
    for event in range(1, 7):
        left = tmp_path / f"{event}"
        medium.fail(event, left, names_first=names_first)
        write_whole(file, b"first")
        write_whole(file, b"second")
        seen.append((left / "a.bin").read_bytes())
    assert set(seen) == {b"first", b"second"}


@pytest.mark.parametrize("names_first", [True, False])
def test_when_the_power_fails_a_folder_is_all_there_or_not_at_all(tmp_path, medium, names_first):
    names, seen = {"a/b/c.bin", "a/d.bin", "e.bin"}, []
    for event in range(1, 9):  # three files, three folders, the name, the folder around it
        left = tmp_path / f"{event}"
        medium.fail(event, left, names_first=names_first)
        with whole_folder(medium.folder / f"{event}") as folder:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(name)
        there = {file.relative_to(left / f"{event}").as_posix() for file in (left / f"{event}").rglob("*.bin")}
        assert all((left / f"{event}" / name).read_text() == name for name in there)
        seen.append(there)
    assert seen[0] == set()
    assert seen[-1] == names
    assert all(there in (set(), names) for there in seen)


def test_a_folder_that_cannot_be_written_is_as_it_was(tmp_path):
    with whole_folder(tmp_path / "a") as folder:
        folder.mkdir()
        (folder / "old.bin").touch()
    with pytest.raises(OutputError, match="No space left"), whole_folder(tmp_path / "a") as folder:  # noqa: PT012
        folder.mkdir()
        raise OSError(28, "No space left on device")
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")] == ["a", "a/old.bin"]


def test_a_drive_that_cannot_wait_for_names_is_written_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def refused(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refused)
    write_whole(tmp_path / "a.bin", b"first")
    assert (tmp_path / "a.bin").read_bytes() == b"first"


def test_an_output_is_held_by_one_run_and_nothing_is_left_behind(tmp_path):
    target = tmp_path / "new" / "folder" / "d.safetensors"
    with hold_output(target):
        with pytest.raises(OutputError, match="another run is writing .*d.safetensors"), hold_output(target):
            pass
        with hold_output(target.with_name("other")):
            pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_killed_run_does_not_hold(tmp_path):
    code = f"""
import os
from pathlib import Path
from napari_histoad.system.atomic import hold_output
with hold_output(Path({str(tmp_path / "a")!r})):
    os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert list(tmp_path.iterdir())
    with hold_output(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())
