"""Outputs are written atomically, also when the disk is full or the power fails, and by one run at a time."""

import errno
import os
import stat
import subprocess
import sys

import pytest

from napari_histoad.errors import OutputError
from napari_histoad.system.atomic import atomic_path, lock_output


def write(path, data):
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def test_atomic_path_makes_parent_folders_and_replaces_an_existing_file(tmp_path):
    file = tmp_path / "new" / "a.bin"
    write(file, b"first")
    write(file, b"second")
    assert file.read_bytes() == b"second"
    assert list(file.parent.iterdir()) == [file]


def test_atomic_path_keeps_the_old_file_and_no_temporary_one_if_the_disk_is_full(tmp_path, monkeypatch):
    file = tmp_path / "a.bin"
    write(file, b"first")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write(file, b"second")
    assert file.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("names_first", [True, False])
def test_atomic_path_leaves_the_old_or_the_new_file_after_a_power_failure(tmp_path, simulated_disk, names_first):
    file, seen = simulated_disk.folder / "a.bin", []
    write(file, b"first")
    for event in range(1, 7):
        left = tmp_path / f"{event}"
        simulated_disk.fail(event, left, names_first=names_first)
        write(file, b"first")
        write(file, b"second")
        seen.append((left / "a.bin").read_bytes())
    assert set(seen) == {b"first", b"second"}


@pytest.mark.parametrize("names_first", [True, False])
def test_atomic_path_leaves_a_complete_folder_or_none_after_a_power_failure(tmp_path, simulated_disk, names_first):
    names, seen = {"a/b/c.bin", "a/d.bin", "e.bin"}, []
    for event in range(1, 9):  # three files, three folders, the name, the folder around it
        left = tmp_path / f"{event}"
        simulated_disk.fail(event, left, names_first=names_first)
        with atomic_path(simulated_disk.folder / f"{event}") as folder:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(name)
        there = {file.relative_to(left / f"{event}").as_posix() for file in (left / f"{event}").rglob("*.bin")}
        assert all((left / f"{event}" / name).read_text() == name for name in there)
        seen.append(there)
    assert seen[0] == set()
    assert seen[-1] == names
    assert all(there in (set(), names) for there in seen)


def test_atomic_path_keeps_the_old_folder_if_writing_the_new_one_fails(tmp_path):
    with atomic_path(tmp_path / "a") as folder:
        folder.mkdir()
        (folder / "old.bin").touch()
    with pytest.raises(OutputError, match="No space left"), atomic_path(tmp_path / "a") as folder:  # noqa: PT012
        folder.mkdir()
        raise OSError(28, "No space left on device")
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")] == ["a", "a/old.bin"]


def test_atomic_path_does_not_replace_a_folder_by_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="cannot write .*; a folder of that name exists"):
        write(tmp_path / "a", b"first")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_atomic_path_overwrites_what_a_killed_run_has_left(tmp_path):
    (tmp_path / ".a.partial" / "old").mkdir(parents=True)
    write(tmp_path / "a", b"first")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_atomic_path_writes_to_drives_that_cannot_flush_folders(tmp_path, monkeypatch):
    fsync = os.fsync

    def refused(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refused)
    write(tmp_path / "a.bin", b"first")
    assert (tmp_path / "a.bin").read_bytes() == b"first"


def test_hold_output_refuses_a_second_run_and_leaves_no_files(tmp_path):
    target = tmp_path / "new" / "folder" / "d.safetensors"
    with lock_output(target):
        with pytest.raises(OutputError, match="another run is writing .*d.safetensors"), lock_output(target):
            pass
        with lock_output(target.with_name("other")):
            pass
    assert not list(tmp_path.iterdir())


def test_hold_output_is_released_when_a_run_is_killed(tmp_path):
    code = f"""
import os
from pathlib import Path
from napari_histoad.system.atomic import lock_output
with lock_output(Path({str(tmp_path / "a")!r})):
    os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert list(tmp_path.iterdir())
    with lock_output(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())
