"""Files and folders that are whole or not there, also after the power has failed."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from filelock import FileLock, Timeout

from napari_histoad.errors import OutputError, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator


__all__ = ["commit", "fsync_path", "hold_output", "holds_output", "whole_folder", "write_whole"]

P = ParamSpec("P")
T = TypeVar("T")

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""What some network drives say, and folders that may be written but not read."""
_AT_ONCE = 4
"""Files wait for the medium, on a network drive for long."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is either all on the medium or as it was before; folders are made as needed.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            commit(partial, path)
            fsync_path(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def commit(partial: Path, path: Path) -> None:
    """Give a file its final name when it is on the medium: the other way round, a power failure may leave the name alone."""
    fsync_path(partial)
    partial.replace(path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give where to write what a folder shall hold: it is either all there, and on the medium, or as it was before.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(fsync_path, (partial, *partial.rglob("*"))))
            if folder.exists():
                shutil.rmtree(folder)
            partial.rename(folder)
            fsync_path(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def hold_output(path: Path) -> Iterator[None]:
    """Keep other runs from writing the same file; the hold ends with the process, however that ends.

    Raises
    ------
    OutputError
        If another run holds it, or its folder cannot be written.
    """
    path = path.expanduser().absolute()
    with writing(path):
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as err:
            msg = f"another run is writing {path}"
            raise OutputError(msg, "wait for it or stop it, or choose another --out") from err
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held, or another run could have it by now; Windows does so by itself
            Path(lock.lock_file).unlink()
        lock.release()
        for folder in made:
            with suppress(OSError):  # it holds the result
                folder.rmdir()


def holds_output(job: Callable[P, Generator[Any, None, T]]) -> Callable[P, Generator[Any, None, T]]:
    """Make a job hold what its argument ``out`` names while it runs, see `hold_output`."""
    signature = inspect.signature(job)

    @functools.wraps(job)
    def held(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, None, T]:
        with hold_output(Path(signature.bind(*args, **kwargs).arguments["out"])):
            return (yield from job(*args, **kwargs))

    return held


def fsync_path(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the medium and not only in the system's memory.

    Raises
    ------
    OSError
        If it is not there, or the medium fails.
    """
    windows, folder = os.name == "nt", path.is_dir()
    if windows and folder:  # no such thing there
        return
    try:
        handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as err:
        if not (folder and err.errno in _NOT_FOR_FOLDERS):
            raise
