"""`open_slide`, and which paths are slides."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoad.errors import SlideError
from napari_histoad.slide._base import Slide, UnsupportedVariantError
from napari_histoad.slide._remote import is_remote, is_url, locate, open_binary, url_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

_HEAD_BYTES = 256
"""Read of a file to recognise its format; that of DICOM stands at byte 128."""
_TABLES = {".csv", ".tsv"}


def can_open(path: str | PathLike[str]) -> bool:
    """Return whether a file has the name of a slide; nothing is read."""
    from napari_histoad.slide._formats import slide_formats  # later: loads the libraries of all formats

    name = (url_name(path) if is_url(path) else Path(path).name).lower()
    return any(fnmatch(name, pattern) for one in slide_formats() for pattern in one.patterns)


def is_slide(path: str | PathLike[str]) -> bool:
    """Return whether a path is a slide rather than a folder or table of tiles.

    A file or URL counts as a slide unless it is a table (csv). A folder does if a format supports it: OME-Zarr; DICOM, if
    parts of a slide are in it, or in its subfolders and no pictures are. Pixels are not read.

    Parameters
    ----------
    path : path-like
    """
    if is_url(path):
        return Path(url_name(path)).suffix.lower() not in _TABLES
    file = locate(path)
    if not file.is_dir():
        return file.suffix.lower() not in _TABLES
    from napari_histoad.slide._formats import slide_formats

    return any(one.supports(file, None) for one in slide_formats())


def open_slide(
    path: str | PathLike[str],
    mpp: float | None = None,
    *,
    slide_mpp: float | None = None,
    srgb: bool = False,
    channels: Sequence[int] | None = None,
    white: int | None = None,
) -> Slide:
    """Open a whole-slide image; pixels are read later, on demand.

    Parameters
    ----------
    path : path-like
        TIFF of most vendors (decoded directly), a file or an URL; OME-Zarr, a folder of DICOM files, PNG or JPEG, or
        anything that OpenSlide reads.
    mpp : float, optional
        µm per level-0 pixel, used even if the file states another value.
    slide_mpp : float, optional
        µm per level-0 pixel, used only if the file states none; otherwise the slide gets a note.
    srgb : bool
        Convert colours to sRGB by the embedded ICC profile, if there is one.
    channels : sequence of int, optional
        One or three channels of an image that is not 8-bit RGB, to be shown as grey or as RGB.
    white : int, optional
        With ``channels``: the intensity that becomes 255.

    Returns
    -------
    Slide

    Raises
    ------
    SlideError
        If the file does not exist, or no format supports it.
    SettingsError
        If ``mpp`` or ``slide_mpp`` lies outside 0.05 to 20.

    Examples
    --------
    >>> with open_slide("case.svs") as slide:  # doctest: +SKIP
    ...     tile = slide.read(level=0, y=1024, x=2048, h=256, w=256)
    """
    file = locate(path)
    if channels is not None:
        from napari_histoad.slide._channels import ChannelSlide

        _read_head(file)
        if is_remote(file):
            raise SlideError(f"channels of {file.name} cannot be read over the network", "copy it to this machine")
        slide: Slide = ChannelSlide(file, channels, white=white, mpp=mpp)
        slide.assume_mpp(slide_mpp)
        return slide
    slide = _open(file, mpp)
    slide.assume_mpp(slide_mpp)
    slide.srgb = srgb and slide.icc_profile is not None
    return slide


def _open(file: Path, mpp: float | None) -> Slide:
    from napari_histoad.slide._formats import slide_formats

    head, remote = _read_head(file), is_remote(file)
    refusal: UnsupportedVariantError | None = None
    for one in slide_formats():
        if (remote and not one.reads_urls) or not one.supports(file, head):
            continue
        try:
            slide = one.from_path(file, mpp)
        except UnsupportedVariantError as err:
            refusal = refusal or err
            if err.final:
                break
        except SlideError:
            if refusal is None:
                raise
        else:
            slide.notes = (*(refusal.notes if refusal else ()), *slide.notes)
            return slide
    if refusal is not None:
        raise SlideError(f"{file.name} is not a slide that can be read: {refusal}", refusal.remedy) from refusal
    if head is None:
        raise SlideError(f"{file} is a folder without a slide", "give a slide file inside it")
    if not head:
        raise SlideError(f"{file.name} is empty", "copy it again from its source")
    raise SlideError(f"{file.name} is not a TIFF, and only those are read over the network", "copy it to this machine")


def _read_head(file: Path) -> bytes | None:
    """Return the first bytes of a file, None for a folder."""
    try:
        if not is_remote(file) and file.is_dir():
            return None
        if not is_remote(file) and file.exists() and not file.is_file():
            raise SlideError(f"{file} is a pipe or a device, but a slide must be a file", "save it as a file first")
        with open_binary(file) as handle:
            return handle.read(_HEAD_BYTES)
    except FileNotFoundError as err:
        raise SlideError(f"there is no file {file}", "check the path") from err
    except OSError as err:
        raise SlideError(f"{file} cannot be read: {err.strerror or err}", "check its permissions") from err


Slide._open_again = staticmethod(open_slide)
