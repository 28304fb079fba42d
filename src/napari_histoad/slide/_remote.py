"""Slides on the network: TIFFs behind http, s3 and other protocols that fsspec supports.

Only the needed bytes are fetched, by one range request per tile. Passwords and signatures in an URL are used, but never shown.
"""

from __future__ import annotations

import io
import os
import re
from collections import OrderedDict
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

from napari_histoad.errors import SlideError
from napari_histoad.slide._http import HttpFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])", re.IGNORECASE)
"""The scheme has two letters or more, which excludes Windows drives; one slash suffices, as `pathlib` drops the other."""
_LOCAL = re.compile(r"file:/*(?=/)", re.IGNORECASE)
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]')
_SECRET = re.compile(r"(?<=://)[^/@\s]*@|\?[^\s'\")]*")
_BLOCK, _BLOCKS = 2**18, 64
_HTTP = ("http", "https")


class Url:
    """An URL with the attributes of a path; its text shows neither query nor password."""

    def __init__(self, scheme: str, rest: str) -> None:
        self.address = f"{scheme}://{rest}"
        self._shown = f"{scheme}://{_without_secrets(scheme, rest)}"
        self.name = url_name(self.address)
        self.stem, self.suffix = PurePosixPath(self.name).stem, PurePosixPath(self.name).suffix
        self.bytes: HttpFile | _FsspecFile
        self.bytes = HttpFile(self.address, self._shown) if scheme in _HTTP else _FsspecFile(self.address, self._shown)

    @property
    def parent(self) -> Url:
        """The folder."""
        scheme, _, rest = self._shown.partition("://")
        return Url(scheme, rest.rstrip("/").rpartition("/")[0] or rest)

    def exists(self) -> bool:
        """Return True: whether it exists is only known when it is opened."""
        return True

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"Url({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __reduce__(self) -> tuple[Any, ...]:
        return Url, tuple(self.address.split("://", 1))


def is_url(path: str | PathLike[str]) -> bool:
    """Return whether a path is an URL on the network."""
    return isinstance(path, Url) or (_URL.match(str(path)) is not None and _LOCAL.match(str(path)) is None)


def url_name(path: str | PathLike[str]) -> str:
    """Return the file name in an URL, without the query and without characters that are invalid in file names."""
    address = re.sub(r"[?#].*" if str(path)[:4].lower() == "http" else r"[?].*", "", str(path), flags=re.DOTALL)
    name = unquote(address.rstrip("/").rpartition("/")[2].rpartition("@")[2])
    return _NOT_IN_NAMES.sub("_", name).strip(" .") or "slide"


def locate(path: str | PathLike[str]) -> Path:
    """Return the absolute path of a file, or for an URL an object that behaves like a path."""
    given: object = path
    if isinstance(given, Url):
        return cast("Path", given)
    local, match = _LOCAL.match(str(path)), _URL.match(str(path))
    if local is not None:
        from urllib.request import url2pathname

        return _absolute(Path(url2pathname(str(path)[local.end() :])))
    if match is None:
        return _absolute(Path(path))
    return cast("Path", Url(match[1].lower(), str(path)[match.end() :]))


def slide_path(given: str | PathLike[str]) -> Path:
    """Return a slide's path unchanged, or for an URL an object that behaves like a path: `Path` would lose its double slashes."""
    return locate(given) if is_url(given) else Path(given)


def address(path: object) -> str:
    """Return the text that opens a located path in another process; for an URL it contains secrets and must not be shown."""
    return path.address if isinstance(path, Url) else str(path)


def is_remote(path: object) -> bool:
    """Return whether a located path is an URL."""
    return isinstance(path, Url)


@contextmanager
def open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a file or URL as a seekable binary file.

    Raises OSError if it cannot be opened, `SlideError` if reading the URL failed, even if the caller has ignored the error.
    """
    if not is_remote(path):
        with path.open("rb") as handle:
            yield handle
        return
    blocks = _Blocks(cast("Url", path).bytes)
    try:
        yield cast("BinaryIO", blocks)
    finally:
        if blocks.error is not None:
            raise blocks.error


class RemoteFile:
    """An URL that many threads can read at any position, with the methods of `PositionalFile`."""

    def __init__(self, path: Path) -> None:
        self._bytes = cast("Url", path).bytes

    def read(self, count: int, offset: int) -> bytes:
        """Return ``count`` bytes, fewer at the end."""
        return self._bytes.read(count, offset)

    def close(self) -> None:
        """Do nothing: no connection is kept."""


class _FsspecFile:
    """A remote file read through fsspec, whose errors are reported as one-line errors."""

    def __init__(self, address: str, shown: str) -> None:
        self._address, self._shown = address, shown
        self._size: int | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        if self._size is None:
            with self._errors():
                system, place = self._system()
                self._size = int(system.size(place))
        return self._size

    def read(self, count: int, offset: int) -> bytes:
        """Return ``count`` bytes, fewer at the end."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        with self._errors():
            system, place = self._system()
            data = bytes(system.cat_file(place, start=offset, end=offset + count))
        if len(data) != count:
            raise SlideError(f"{self._shown} has changed since it was opened", "open it again")
        return data

    def _system(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        system, place = url_to_fs(self._address)
        return system, place

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise SlideError(f"there is no file {self._shown}", "check the address") from None
        except PermissionError:
            raise SlideError(f"{self._shown} gives no access", "log in, or check your credentials") from None
        except ImportError as err:
            raise _missing(self._shown, err) from None
        except Exception as err:  # noqa: BLE001 - each network library has its own errors
            reason = _SECRET.sub("", (str(err).strip().splitlines() or [type(err).__name__])[0])[:160]
            raise SlideError(f"{self._shown} cannot be reached ({reason})", "check the address and the connection") from None


class _Blocks(io.RawIOBase):
    """A seekable file object that caches the blocks it has read, and keeps its first error."""

    def __init__(self, source: HttpFile | _FsspecFile) -> None:
        self._source, self._at = source, 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.error: SlideError | None = None
        self._size = self._guarded(lambda: source.size)

    def _guarded(self, read: Any) -> Any:
        try:
            return read()
        except ImportError as err:
            self.error = _missing("an URL", err)
            raise self.error from None
        except SlideError as err:
            self.error = self.error or err
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        out = memoryview(buffer).cast("B")
        number, skip = divmod(self._at, _BLOCK)
        part = self._block(number)[skip : skip + len(out)]
        out[: len(part)] = part
        self._at += len(part)
        return len(part)

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._size - self._at if size is None or size < 0 else size
        parts = []
        while wanted > 0 and (part := super().read(min(wanted, _BLOCK))):
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def _block(self, number: int) -> bytes:
        if number not in self._kept:
            self._kept[number] = self._guarded(lambda: self._source.read(_BLOCK, number * _BLOCK))
            if len(self._kept) > _BLOCKS:
                self._kept.popitem(last=False)
        return self._kept[number]


def _without_secrets(scheme: str, rest: str) -> str:
    """Return the part after ``://`` without query, http fragment, user and password; a container's name before an @ stays."""
    place = re.split(r"[?#]" if scheme in _HTTP else r"[?]", rest, maxsplit=1)[0]
    user, at, host = place.partition("/")[0].rpartition("@")
    secret = at and (scheme in (*_HTTP, "ftp", "ftps", "sftp", "ssh") or ":" in user)
    return host + place[len(user) + len(at) + len(host) :] if secret else place


def _missing(shown: str, err: ImportError) -> SlideError:
    package = f" ({_SECRET.sub('', str(err)):.80})"
    return SlideError(
        f"{shown} cannot be read without a package{package}", 'pip install "napari-histoad[remote]", or that package'
    )


def _absolute(path: Path) -> Path:
    """Return the path without ``~`` and ``..``; links are not followed, so that a slide keeps the name that the user gave."""
    with suppress(RuntimeError):  # a file may be named ~1.svs although there is no such user
        path = path.expanduser()
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps ..
