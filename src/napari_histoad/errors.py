"""All errors that this package raises on purpose: each says what happened, where, and how to fix it.

None derives from ``RuntimeError``: torch raises that when memory runs out or shapes do not fit, and superqt's workers swallow
it silently.
"""

from __future__ import annotations

import errno
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from pydantic import ValidationError

__all__ = [
    "BundleError",
    "DeviceError",
    "EmptyTissueError",
    "EncoderError",
    "HistoadError",
    "JobCancelledError",
    "MapError",
    "MissingMppError",
    "OtherMapError",
    "OutputError",
    "RegionError",
    "SettingsError",
    "SlideError",
    "TooFewTilesError",
    "TrainingError",
    "WorkerError",
    "explained",
    "first_error",
    "first_line",
    "writing",
]


class HistoadError(Exception):
    """Base class of all errors that this package raises on purpose.

    Parameters
    ----------
    what : str
        What happened and where, in one line.
    remedy : str
        How to fix it, in one line.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(what, remedy)

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class SlideError(HistoadError):
    """A file is not a readable slide, or a part of it cannot be decoded."""


class MissingMppError(SlideError):
    """The slide does not state a usable resolution (µm per pixel), and none was given."""


class RegionError(HistoadError):
    """An annotation file or shape cannot be used."""


class EmptyTissueError(HistoadError):
    """No tissue was found on a slide or in its outlines."""


class TooFewTilesError(HistoadError):
    """There are too few normal tiles to train and calibrate a detector."""


class TrainingError(HistoadError):
    """Training failed: losses or scores became NaN or infinite. Nothing is saved."""


class SettingsError(HistoadError):
    """A setting, a name or an argument is invalid."""


class BundleError(HistoadError):
    """A saved detector cannot be read, or does not fit what it is used for."""


class EncoderError(HistoadError):
    """The name of an encoder is unknown, or its weights are missing or do not fit."""


class MapError(HistoadError):
    """An anomaly map cannot be opened, resumed or used."""


class OtherMapError(MapError):
    """The output folder already holds a map made with another detector or other settings, or a damaged map."""


class OutputError(HistoadError):
    """A result cannot be written to disk."""


class DeviceError(HistoadError):
    """The requested device is missing or out of memory."""


class JobCancelledError(HistoadError):
    """A job was cancelled on request."""


class WorkerError(HistoadError):
    """The background process that runs the jobs has stopped unexpectedly."""


def explained(err: Exception, doing: str = "") -> HistoadError:
    """Return the error to show to users: a `HistoadError` unchanged, any other as a one-line `HistoadError`.

    The traceback of other errors goes to the log.

    Parameters
    ----------
    err : Exception
    doing : str
        What failed; the message begins with it.
    """
    if isinstance(err, HistoadError):
        return err
    logging.getLogger("napari_histoad").debug("%s", doing or "unexpected error", exc_info=err)
    start = f"{doing}: unexpected" if doing else "unexpected"
    found = HistoadError(
        f"{start} {type(err).__name__}: {first_line(err)}", "set HISTOAD_DEBUG=1 for the details, and please report it"
    )
    found.__cause__ = err
    return found


def first_error(err: ValidationError) -> str:
    """Return the first problem that a validation error names, in one line."""
    problem = err.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


def first_line(err: BaseException) -> str:
    """Return the first line of an error's message, at most 160 characters; the name of its class if it has no message."""
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:160]


_REMEDIES = {
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOSPC: "the disk is full: free some space and run the same command again, it resumes",
    errno.EDQUOT: "your disk quota is used up: free some space and run the same command again, it resumes",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a file of that name exists: choose another path",
    errno.EISDIR: "a folder of that name exists: choose another path",
}


@contextmanager
def writing(path: str | PathLike[str]) -> Iterator[None]:
    """Turn any ``OSError`` in the block, which writes ``path``, into an `OutputError` with a remedy.

    Raises
    ------
    OutputError
        For any ``OSError`` in the block, which becomes its cause.
    """
    try:
        yield
    except OSError as err:
        reason = err.strerror or str(err)
        remedy = _REMEDIES.get(err.errno or 0, "choose another folder and run again")
        raise OutputError(f"cannot write {path}: {reason}", remedy) from err
