"""Names of slides, without opening them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoad.slide._remote import is_url, locate, url_name

if TYPE_CHECKING:
    from os import PathLike


def slide_name(path: str | PathLike[str]) -> str:
    """Return the name of a slide, which is also the name of its results.

    For a file it is the file name without its extension; for a folder (DICOM, OME-Zarr) the folder's name, including dots, since
    it may be an UID. Files of one DICOM series are named after their folder. The name of an URL has no query or password.

    Parameters
    ----------
    path : path-like
        File, folder or URL; it need not exist.
    """
    if is_url(path):
        return Path(url_name(path)).stem
    file = locate(path)
    if file.is_dir():
        return file.stem if file.suffix.lower() == ".zarr" else file.name
    return file.parent.name if _is_one_of_series(file) else file.stem


def file_name(path: str | PathLike[str]) -> str:
    """Return the file name of a slide, with its extension; files of one DICOM series are named after their folder.

    Parameters
    ----------
    path : path-like
        File, folder or URL; the name of an URL has no query or password.
    """
    if is_url(path):
        return url_name(path)
    file = locate(path)
    return file.parent.name if _is_one_of_series(file) else file.name


def _is_one_of_series(file: Path) -> bool:
    """Return whether a file is DICOM and all slide files in its folder belong to one series."""
    try:
        with file.open("rb") as handle:
            handle.seek(128)
            if handle.read(4) != b"DICM":
                return False
    except OSError:
        return False
    from napari_histoad.slide._dicom_folder import beside

    return len({instance.series for instance in beside(file)}) == 1
