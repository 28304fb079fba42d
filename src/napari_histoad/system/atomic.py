"""Outputs written atomically, by one run at a time: a crash, a full disk or a power failure leaves no partial results."""

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
    from os import PathLike

P = ParamSpec("P")
T = TypeVar("T")

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""Errors of fsync on a folder that are ignored: from some network drives, and from folders that may be written but not read."""
_FSYNC_THREADS = 4
"""fsync waits for the disk; on a network drive that takes long."""


@contextmanager
def atomic_path(path: str | PathLike[str]) -> Iterator[Path]:
    """Return a temporary path for a file or a folder that replaces ``path`` atomically when the block ends.

    What the block has written is flushed to disk (fsync) before it is renamed, so that after a crash or a power failure ``path``
    is complete or as it was before. If the block fails, what it has written is removed. Missing parent folders are made. Raises
    `OutputError` if it cannot be written.

    >>> with atomic_path("scores.json") as partial:
    ...     partial.write_text("[]")
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        _remove(partial)  # a run that was killed may have left it
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with ThreadPoolExecutor(_FSYNC_THREADS) as pool:
                list(pool.map(fsync_path, (partial, *partial.rglob("*"))))
            if partial.is_dir() and path.is_dir():
                shutil.rmtree(path)
            partial.replace(path)  # after the flush: otherwise a power failure may leave the new name with no content
            fsync_path(path.parent)
        finally:
            _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Lock an output against other runs that would write it; the lock also ends if the process is killed."""
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
        with suppress(OSError):  # before the release: later it could be another run's; Windows removes it by itself
            Path(lock.lock_file).unlink()
        lock.release()
        for folder in made:
            with suppress(OSError):  # not empty: it holds the result
                folder.rmdir()


def locks_output(job: Callable[P, Generator[Any, None, T]]) -> Callable[P, Generator[Any, None, T]]:
    """Decorate a job so that it locks its argument ``out`` while it runs, see `lock_output`."""
    signature = inspect.signature(job)

    @functools.wraps(job)
    def locked(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, None, T]:
        with lock_output(Path(signature.bind(*args, **kwargs).arguments["out"])):
            return (yield from job(*args, **kwargs))

    return locked


def fsync_path(path: Path) -> None:
    """Flush a file, or the list of names in a folder, from the system's memory to disk."""
    windows, folder = os.name == "nt", path.is_dir()
    if windows and folder:  # Windows cannot flush folders
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
