"""Choosing the backend for a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoad.errors import SlideError
from napari_histoad.slide._remote import is_remote, is_url, locate, open_binary, url_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from napari_histoad.slide._base import Slide
    from napari_histoad.slide._dicom_folder import Instance

__all__ = ["can_open", "open_slide"]

EXTENSIONS = (
    *(".tif", ".tiff", ".btf", ".tf8", ".svs", ".svslide", ".qptiff"),
    *(".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".dcm", ".czi", ".zarr"),
)
"""File name endings offered to napari; `open_slide` itself looks inside the file."""

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PICTURE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM")
_NAMES_A_FOLDER = ".mrxs"
"""Of such a file only the name counts: the slide is in the folder beside it, the file itself a small picture or empty."""


def can_open(path: str | PathLike[str]) -> bool:
    """Return whether the file name looks like a slide; nothing is read."""
    return Path(url_name(path) if is_url(path) else path).suffix.lower() in EXTENSIONS


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
        anything that OpenSlide reads. DICOM in rarer encodings through the extra ``dicom``.
    mpp : float, optional
        µm per level-0 pixel, also where the file states another value.
    slide_mpp : float, optional
        µm per level-0 pixel where the file does not state it; otherwise the file's own counts, and a note says so.
    srgb : bool
        Convert colours to sRGB by the embedded ICC profile, if there is one.
    channels : sequence of int, optional
        One channel or three of a picture that is not 8-bit RGB, see `ChannelSlide`.
    white : int, optional
        With ``channels``: the intensity that becomes 255.

    Returns
    -------
    Slide

    Raises
    ------
    SlideError
        If there is no such file or no backend can read it.
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

        _look(file)
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
    if file.suffix.lower() == _NAMES_A_FOLDER and not is_remote(file) and file.is_file():
        from napari_histoad.slide._openslide import OpenSlideSlide

        return OpenSlideSlide(file if file.with_suffix("").is_dir() else file.resolve(), mpp)
    magic = _look(file)
    return _open_folder(file, mpp) if magic is None else _open_file(file, magic, mpp)


def _look(file: Path) -> bytes | None:
    """Return the first bytes of a file, None for a folder."""
    try:
        if not is_remote(file) and file.is_dir():
            return None
        if not is_remote(file) and file.exists() and not file.is_file():
            raise SlideError(f"{file} is a pipe or a device, and a slide has to be a file", "save it as a file first")
        with open_binary(file) as handle:
            magic = handle.read(12)
    except FileNotFoundError as err:
        raise SlideError(f"there is no file {file}", "check the path") from err
    except OSError as err:
        raise SlideError(f"{file} cannot be read: {err.strerror or err}", "check its permissions") from err
    if not magic:
        raise SlideError(f"{file.name} is empty", "copy it again from its source")
    return magic


def _open_file(file: Path, magic: bytes, mpp: float | None) -> Slide:
    from napari_histoad.slide._dicom_folder import is_dicom, series_of
    from napari_histoad.slide._openslide import OpenSlideSlide
    from napari_histoad.slide._plain import PlainSlide
    from napari_histoad.slide._tiff import TiffSlide
    from napari_histoad.slide._tiff_tiles import UnsupportedTiffError

    if is_remote(file) and not magic.startswith(_TIFF_MAGIC):
        raise SlideError(f"{file.name} is not a TIFF, and only those are read over the network", "copy it to this machine")
    if magic.startswith(_PICTURE_MAGIC) or (magic[:4] == b"RIFF" and magic[8:12] == b"WEBP"):
        return PlainSlide(file, mpp)
    refusal: UnsupportedTiffError | None = None
    if magic.startswith(_TIFF_MAGIC):
        try:
            return TiffSlide(file, mpp)
        except UnsupportedTiffError as err:
            refusal = err
    if refusal is None or not (refusal.hopeless or is_remote(file)):
        if refusal is None and is_dicom(file):
            return _open_dicom(file, series_of(file), mpp)
        try:
            return OpenSlideSlide(file, mpp, notes=() if refusal is None else refusal.notes)
        except SlideError:
            if refusal is None:
                raise
    raise SlideError(f"{file.name} is not a slide that can be read: {refusal}", refusal.remedy) from refusal


def _open_dicom(path: Path, instances: Sequence[Instance], mpp: float | None, notes: Sequence[str] = ()) -> Slide:
    """Open the parts of one series; ``path`` is what the user named, one of these files or their folder."""
    from napari_histoad.slide._dicom import DicomSlide
    from napari_histoad.slide._dicom_folder import pictures_of
    from napari_histoad.slide._dicom_frames import declares_other_colours
    from napari_histoad.slide._openslide import OpenSlideSlide

    files = [instance.path for instance in instances]
    shapes = {instance.shape for instance in instances}
    odd_colours = any(declares_other_colours(file) for file in files)
    if odd_colours:
        notes = [*notes, "Its header says other colours than its JPEG frames: the frames' own are read."]
    joined = len(shapes) < len(files) or any(i.concatenated or i.focal_planes > 1 or i.optical_paths > 1 for i in instances)
    if not (joined or odd_colours):
        with suppress(SlideError):
            return OpenSlideSlide(path, mpp, file=files[0], notes=notes)
    return DicomSlide(path, mpp, files, notes, pictures_of(instances[0]))


def _open_folder(folder: Path, mpp: float | None) -> Slide:
    from napari_histoad.slide._dicom_folder import choose_series, find_instances
    from napari_histoad.slide._zarr import OmeZarrSlide, is_zarr

    if is_zarr(folder):
        return OmeZarrSlide(folder, mpp)
    instances = find_instances(folder)
    if instances:
        series, notes = choose_series(instances, folder)
        return _open_dicom(folder, series, mpp, notes)
    raise SlideError(f"{folder} is a folder without a slide", "name a slide file inside it")
