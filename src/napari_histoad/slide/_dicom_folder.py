"""The files of DICOM slides: finding them in folders, and which of them belong to one slide."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial

from napari_histoad.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom import Dataset

_PREAMBLE = 128
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_FRAMES = 0x5200_9229
"""Functional groups and pixels begin at this tag; they may be long, and are not needed to tell which slide a file belongs to."""
_PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
_OTHER_KINDS = {*_PICTURES, ".gif", ".svs", ".ndpi", ".csv", ".json", ".geojson", ".xml", ".txt", ".html", ".pdf", ".zip"}
"""Endings of files that are never DICOM; all others are looked into, because archives give instances any name."""
_DEPTH = 5
_quiet = threading.Lock()


@dataclass(frozen=True)
class Instance:
    """One file of a DICOM slide."""

    path: Path
    series: str  # its UID
    number: int  # of the series; 0 if it has none
    description: str
    kind: str  # VOLUME for tissue; LABEL, OVERVIEW or THUMBNAIL
    shape: tuple[int, int]  # (height, width) in pixels
    focal_planes: int
    optical_paths: int
    concatenated: bool  # the image continues in other files


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress pydicom's warnings and logs on odd values; by one thread at a time, because warning filters are global."""
    logger = logging.getLogger("pydicom")
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def is_dicom(file: Path) -> bool:
    """Return whether a file is DICOM."""
    with file.open("rb") as handle:
        handle.seek(_PREAMBLE)
        return handle.read(4) == b"DICM"


def read_instance(file: Path) -> Instance | None:
    """Return the description of a file of a DICOM slide; None if it is not part of one or cannot be read."""
    try:
        if not is_dicom(file):
            return None
        with without_warnings(), file.open("rb") as handle:
            header = read_partial(handle, stop_when=lambda tag, vr, length: tag >= _FRAMES)  # noqa: ARG005 - named by pydicom
            if header.get("SOPClassUID") != _WHOLE_SLIDE:
                return None
            kinds = {"VOLUME", "LABEL", "OVERVIEW", "THUMBNAIL"} & set(header.get("ImageType") or ())
            return Instance(
                file,
                str(header.get("SeriesInstanceUID") or ""),
                _number(header, "SeriesNumber"),
                str(header.get("SeriesDescription") or ""),
                min(kinds, default="VOLUME"),
                (_number(header, "TotalPixelMatrixRows"), _number(header, "TotalPixelMatrixColumns")),
                max(1, _number(header, "TotalPixelMatrixFocalPlanes")),
                max(1, len(header.get("OpticalPathSequence") or ())),
                "ConcatenationUID" in header,
            )
    except (OSError, InvalidDicomError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, EOFError):
        return None


def _number(header: Dataset, name: str) -> int:
    value: Any = header.get(name)
    return int(value) if value not in (None, "") else 0


def beside(file: Path) -> list[Instance]:
    """Return the files of DICOM slides in the folder of a file, sorted by name."""
    return _instances(file.parent, sorted(one.name for one in file.parent.iterdir()))


def series_of(file: Path) -> list[Instance]:
    """Return the files of the slide that a file belongs to: those of its series in the same folder; a label or macro alone."""
    own = read_instance(file)
    if own is None and file.name.upper() == "DICOMDIR":
        raise SlideError(f"{file.name} only lists DICOM files", f"name their folder: {file.parent}")
    if own is None:
        raise SlideError(f"{file.name} is DICOM, but not a whole-slide image that can be read", "check the file")
    same = [instance for instance in beside(file) if (instance.series, instance.kind) == (own.series, own.kind)]
    known = own.kind == "VOLUME" and own in same  # not in it if its name has the ending of another file type
    return same if known else [own]


def pictures_of(slide: Instance) -> dict[str, Path]:
    """Return the label, macro and thumbnail of a slide, by name."""
    names = {"LABEL": "label", "OVERVIEW": "macro", "THUMBNAIL": "thumbnail"}
    return {names[one.kind]: one.path for one in beside(slide.path) if one.kind in names and one.series == slide.series}


def find_instances(folder: Path) -> list[Instance]:
    """Return the files of DICOM slides in a folder, else in its subfolders, sorted by path."""
    found = [instance for place, names in _walk(folder) for instance in _instances(place, names)]
    return [instance for instance in found if instance.path.parent == folder] or found


def holds_instances(folder: Path) -> bool:
    """Return whether a folder is a DICOM slide rather than a folder of tiles.

    It is if it contains files of a slide, or if its subfolders do and there are no pictures.
    """
    found = False
    for place, names in _walk(folder):
        if not found:
            found = any(read_instance(place / name) is not None for name in _candidates(names))
        if found and place == folder:
            return True
        if any(os.path.splitext(name)[1].lower() in _PICTURES for name in names):  # noqa: PTH122 - a million names
            return False
    return found


def choose_series(instances: list[Instance], folder: Path) -> tuple[list[Instance], tuple[str, ...]]:
    """Return the files of the largest slide (among equals, the first by file name), and a note on the others."""
    by_series: dict[tuple[Path, str], list[Instance]] = {}
    for instance in instances:
        if instance.kind == "VOLUME":
            by_series.setdefault((instance.path.parent, instance.series), []).append(instance)
    if not by_series:
        raise SlideError(
            f"{folder.name} holds only the label or overview of a DICOM slide", "name the folder of the slide itself"
        )
    chosen = max(by_series.values(), key=lambda some: max(one.shape[0] * one.shape[1] for one in some))
    if len(by_series) == 1:
        return chosen, ()
    first = chosen[0]
    named = f"{first.description or first.series} ({first.path.relative_to(folder)})"
    return chosen, (f"{folder.name} holds {len(by_series)} DICOM series; the first of the largest is read: {named}.",)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    for place, folders, names in os.walk(folder):
        here = type(folder)(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and len(here.relative_to(folder).parts) < _DEPTH)
        yield here, sorted(names)


def _candidates(names: list[str]) -> list[str]:
    endings = ((name, os.path.splitext(name)[1].lower()) for name in names)  # noqa: PTH122 - a million names
    return [name for name, ending in endings if ending not in _OTHER_KINDS and not name.startswith(".")]


def _instances(place: Path, names: list[str]) -> list[Instance]:
    found = (read_instance(place / name) for name in _candidates(names))
    return [instance for instance in found if instance is not None]
