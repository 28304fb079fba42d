"""Slides that are not files of this machine: TIFFs behind http, s3 and whatever else fsspec reaches.

Only what is looked at is fetched: one range request per tile.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

from napari_histoad.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

__all__ = ["RemoteFile", "is_remote", "is_url", "locate", "open_binary", "url_name"]

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])", re.IGNORECASE)
"""Two letters or more, so no drive of Windows; one slash will do, for `pathlib` drops the other."""
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_BLOCK = 2**18


def is_url(path: str | PathLike[str]) -> bool:
    """Return whether a path names something on the network."""
    return _URL.match(str(path)) is not None


def url_name(path: str | PathLike[str]) -> str:
    """Return the file name in an URL, without query, and with nothing that a file name may not hold."""
    address = re.sub(r"[?#].*" if str(path)[:4].lower() == "http" else r"[?].*", "", str(path), flags=re.DOTALL)
    name = unquote(address.rstrip("/").rpartition("/")[2])
    return _NOT_IN_NAMES.sub("_", name).strip(" .") or "slide"


def locate(path: str | PathLike[str]) -> Path:
    """Return the absolute path of a file, or what stands for an URL and behaves like a path.

    Raises
    ------
    SlideError
        If the URL's kind is not known, or a package for it is missing.
    """
    match = _URL.match(str(path))
    if match is None:
        return _absolute(Path(path))
    url = f"{match[1].lower()}://{str(path)[match.end() :]}"
    try:
        from upath import UPath
    except ImportError as err:
        raise SlideError(
            f"{url} is not on this machine", 'install what reads URLs: pip install "napari-histoad[remote]"'
        ) from err
    try:
        remote = UPath(url)
        _ = remote.fs
    except (ValueError, ImportError) as err:
        raise SlideError(f"{url} cannot be reached: {err}", "copy the slide to this machine, or install that package") from err
    return cast("Path", remote)


def _absolute(path: Path) -> Path:
    """Return the path without ``~`` and ``..``; links are not followed, for a slide is called as its user calls it."""
    with suppress(RuntimeError):  # a file may be named ~1.svs, and no user is
        path = path.expanduser()
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps what is ..


def is_remote(path: Path) -> bool:
    """Return whether a located path is an URL."""
    return not isinstance(path, Path)


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a file or URL for reading bytes here and there.

    Raises
    ------
    OSError
        Whatever went wrong.
    """
    options: dict[str, Any] = {"block_size": _BLOCK, "cache_type": "blockcache"} if is_remote(path) else {}
    with _network_errors(path), path.open("rb", **options) as handle:
        yield cast("BinaryIO", handle)


class RemoteFile:
    """Positional reads of an URL, as `PositionalFile` does them of a file."""

    def __init__(self, path: Path) -> None:
        self._path: Any = path

    def read(self, count: int, offset: int) -> bytes:
        """Return ``count`` bytes, fewer at the end."""
        with _network_errors(self._path):
            return bytes(self._path.fs.cat_file(self._path.path, start=offset, end=offset + count))

    def close(self) -> None:
        """Do nothing: no connection is kept."""


@contextmanager
def _network_errors(path: Path) -> Iterator[None]:
    """Turn what the many network libraries raise into OSError; errors of our own pass."""
    try:
        yield
    except Exception as err:
        known = type(err).__module__.split(".")[0] in _NETWORK
        if isinstance(err, OSError) or not (known and is_remote(path)):
            raise
        raise OSError(f"the network says: {str(err) or type(err).__name__}") from err


_NETWORK = {"aiohttp", "fsspec", "botocore", "google", "azure", "gcsfs", "requests", "urllib3"}
