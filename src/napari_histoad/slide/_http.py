"""Reading parts of a file over http; each answer is checked, since servers may ignore byte ranges and files may change."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_histoad.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Mapping

_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)")
_DOWNLOAD = "download the file, and open the copy"
_CONNECT_S, _SILENCE_S = 20, 60


class _Version(NamedTuple):
    """The version of a file on a server, to notice when the file changes."""

    size: int
    etag: str
    modified: str


class HttpFile:
    """A file behind http or https that many threads can read at any position; all reads are of the same version of the file.

    ``shown`` is its URL without secrets, for messages. Raises `SlideError` if the server cannot be reached or refuses, does not
    send the requested byte ranges, or the file has changed since the first read.
    """

    def __init__(self, address: str, shown: str) -> None:
        self._address, self._shown = address, shown
        self._version: _Version | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        if self._version is None:
            self.read(1, 0)
        assert self._version is not None
        return self._version.size

    def read(self, count: int, offset: int) -> bytes:
        """Return ``count`` bytes, fewer at the end."""
        if count <= 0 or (self._version is not None and offset >= self._version.size):
            return b""
        import aiohttp
        import fsspec
        from fsspec.asyn import sync

        system = fsspec.filesystem("http")
        try:
            return bytes(sync(system.loop, self._fetch, system, count, offset))
        except aiohttp.ClientConnectorCertificateError:
            raise self._unreachable("its certificate is not valid") from None
        except aiohttp.ClientConnectorError as err:
            raise self._unreachable(_reason(err.os_error)) from None
        except (TimeoutError, aiohttp.ServerTimeoutError):
            raise self._unreachable("it does not answer") from None
        except (aiohttp.InvalidURL, ValueError):
            raise SlideError(f"{self._shown} is not a valid URL", "check the address") from None
        except aiohttp.TooManyRedirects:
            raise self._unreachable("it redirects endlessly") from None
        except (aiohttp.ClientError, OSError) as err:
            raise self._unreachable(f"the connection broke, {type(err).__name__}") from None

    async def _fetch(self, system: Any, count: int, offset: int) -> bytes:
        import aiohttp
        from yarl import URL

        session, options = await system.set_session(), dict(system.kwargs)
        last = offset + count - 1
        headers = {**options.pop("headers", {}), "Range": f"bytes={offset}-{last}", "Accept-Encoding": "identity"}
        options.setdefault("timeout", aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S))
        url = URL(self._address, encoded="%" in self._address)  # a signature is valid only for the address exactly as written
        async with session.get(url, headers=headers, **options) as answer:
            first_last = self._check(answer.status, answer.headers, offset, last)
            if first_last is None:
                return b""
            data = bytes(await answer.read())
        if len(data) != first_last[1] - first_last[0] + 1:
            raise self._wrong("sent a different number of bytes than it announced")
        return data

    def _check(self, status: int, headers: Mapping[str, str], offset: int, last: int) -> tuple[int, int] | None:
        """Return the first and last byte of an answer, None if the file ends before them."""
        if status == 416:
            if self._version is None and offset == 0:  # an empty file
                self._version = _Version(0, "", "")
                return None
            raise self._changed()
        if status == 200:
            if headers.get("Content-Type", "").startswith("text/html"):
                raise SlideError(
                    f"{self._shown} is a web page, not a slide", "give the address of the file itself, or download it"
                )
            raise self._wrong("sends no byte ranges, only whole files")
        if status != 206:
            raise self._refused(status)
        if headers.get("Content-Encoding", "identity") not in ("", "identity"):
            raise self._wrong("compresses what it sends")
        stated = _RANGE.match(headers.get("Content-Range", ""))
        if stated is None:
            raise self._wrong("does not state which bytes it sends")
        begin, end = int(stated[1]), int(stated[2])
        if stated[3] == "*":
            raise self._wrong("does not state how long the file is")
        size = int(stated[3])
        if begin != offset or end != min(last, size - 1):
            raise self._wrong("sends other bytes than requested")
        version = _Version(size, headers.get("ETag", ""), headers.get("Last-Modified", ""))
        if self._version is None:
            self._version = version
        elif _differ(self._version, version):
            raise self._changed()
        return begin, end

    def _changed(self) -> SlideError:
        return SlideError(f"{self._shown} has changed since it was opened", "open it again, and repeat what was computed from it")

    def _wrong(self, what: str) -> SlideError:
        return SlideError(f"the server of {self._shown} {what}", _DOWNLOAD)

    def _unreachable(self, why: str) -> SlideError:
        return SlideError(f"the server of {self._shown} cannot be reached ({why})", "check the address and the connection")

    def _refused(self, status: int) -> SlideError:
        if status in (404, 410):
            return SlideError(f"there is no file {self._shown} (HTTP {status})", "check the address")
        if status in (401, 403, 407):
            what = f"the server of {self._shown} gives no access (HTTP {status})"
            return SlideError(what, "log in, or renew the link: signed ones expire")
        return SlideError(f"the server of {self._shown} answers with an error (HTTP {status})", "try again later")


def _differ(one: _Version, other: _Version) -> bool:
    """Return whether two answers are of different versions; servers behind one name may label versions differently or not."""
    if one.size != other.size:
        return True
    if one.etag and other.etag:
        return one.etag.removeprefix("W/") != other.etag.removeprefix("W/")
    return bool(one.modified and other.modified and one.modified != other.modified)


def _reason(err: OSError) -> str:
    if isinstance(err, socket.gaierror) or type(err).__name__ == "gaierror":
        return "no such host is known"
    if isinstance(err, ConnectionRefusedError):
        return "it refuses connections"
    return err.strerror or type(err).__name__
