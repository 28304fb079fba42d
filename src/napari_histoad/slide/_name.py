"""Names of slides, without opening them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoad.slide._remote import is_url, locate, url_name

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["file_name", "slide_name"]


def slide_name(path: str | PathLike[str]) -> str:
    """Return the name of a slide, by which its results are called.

    A file's is its name without the extension. A folder's, of DICOM or OME-Zarr, is its own, with all its dots: it may be
    an UID. Files of one DICOM series are called after their folder. Of an URL, neither query nor password is in it.

    Parameters
    ----------
    path : path-like
        File, folder or URL; it need not be there.
    """
    if is_url(path):
        return Path(url_name(path)).stem
    file = locate(path)
    if file.is_dir():
        return file.stem if file.suffix.lower() == ".zarr" else file.name
    return file.parent.name if _is_one_of_series(file) else file.stem


def file_name(path: str | PathLike[str]) -> str:
    """Return what a slide's file is called, with its extension; files of one DICOM series are called after their folder.

    Parameters
    ----------
    path : path-like
        File, folder or URL; of an URL, neither query nor password is in it.
    """
    if is_url(path):
        return url_name(path)
    file = locate(path)
    return file.parent.name if _is_one_of_series(file) else file.name


def _is_one_of_series(file: Path) -> bool:
    """Return whether a file is DICOM and all parts of slides beside it are of one series."""
    try:
        with file.open("rb") as handle:
            handle.seek(128)
            if handle.read(4) != b"DICM":
                return False
    except OSError:
        return False
    from napari_histoad.slide._dicom_folder import beside

    return len({instance.series for instance in beside(file)}) == 1
