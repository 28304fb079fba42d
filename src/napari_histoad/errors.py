"""Every error a user can meet: what happened, where, and how to mend it.

One tree, none of it derived from ``RuntimeError``: torch raises that for out-of-memory and shape faults, and
GUI workers are known to swallow it.
"""

from __future__ import annotations

import errno
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

__all__ = [
    "BundleError",
    "DeviceError",
    "EmptyTissueError",
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
    "writing",
]


class HistoadError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what : str
        What happened and where, in one line.
    remedy : str
        What the user can do about it, in one line.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(what, remedy)

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


class SlideError(HistoadError):
    """A file is not a slide that can be read, or a part of it cannot be decoded."""


class MissingMppError(SlideError):
    """The slide carries no usable resolution and none was given."""


class RegionError(HistoadError):
    """An annotation file or shape cannot be used."""


class EmptyTissueError(HistoadError):
    """No tissue was found where it was looked for."""


class TooFewTilesError(HistoadError):
    """Too few normal tiles to train and to calibrate."""


class TrainingError(HistoadError):
    """Training went wrong: losses or scores are not numbers, and nothing is saved."""


class SettingsError(HistoadError):
    """A setting, a name or an argument is not valid."""


class BundleError(HistoadError):
    """A saved detector cannot be read or does not fit its use."""


class BackboneError(HistoadError):
    """An encoder's name is unknown, or its weights are missing or do not fit."""


class MapError(HistoadError):
    """An anomaly map cannot be opened, resumed or used."""


class OtherMapError(MapError):
    """A map of another detector or other settings, or a damaged one, lies where the new one should go."""


class OutputError(HistoadError):
    """A result could not be written."""


class DeviceError(HistoadError):
    """The asked-for device is missing or out of memory."""


class JobCancelledError(HistoadError):
    """A job was cancelled on request."""


class WorkerError(HistoadError):
    """The background process that runs the jobs has died."""


def explained(err: Exception, doing: str = "") -> HistoadError:
    """Return an error of ours as it is, and one for people in place of any other, whose traceback goes to the log.

    Parameters
    ----------
    err : Exception
    doing : str
        What failed, as the beginning of the sentence.
    """
    if isinstance(err, HistoadError):
        return err
    logging.getLogger("napari_histoad").debug("%s", doing or "unexpected error", exc_info=err)
    reason = (str(err).strip().splitlines() or ["no message"])[0][:200]
    start = f"{doing}: unexpected" if doing else "unexpected"
    found = HistoadError(f"{start} {type(err).__name__}: {reason}", "set HISTOAD_DEBUG=1 for the details, and please report it")
    found.__cause__ = err
    return found


_REMEDIES = {
    errno.EACCES: "choose a folder that you may write to, or mend its permissions",
    errno.EPERM: "choose a folder that you may write to, or mend its permissions",
    errno.EROFS: "the medium is read-only: choose another folder",
    errno.ENOSPC: "the disk is full: free some space and run the same command again, it resumes",
    errno.EDQUOT: "your disk quota is used up: free some space and run the same command again, it resumes",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.EEXIST: "the name is taken by a file: choose another path",
    errno.EISDIR: "the name is taken by a folder: choose another path",
}


@contextmanager
def writing(path: str | PathLike[str]) -> Iterator[None]:
    """Translate operating-system faults while writing ``path`` into an `OutputError` with a remedy.

    Raises
    ------
    OutputError
        For any ``OSError`` inside the block; the cause is kept.
    """
    try:
        yield
    except OSError as err:
        reason = err.strerror or str(err)
        remedy = _REMEDIES.get(err.errno or 0, "choose another place and run again")
        raise OutputError(f"cannot write {path}: {reason}", remedy) from err
