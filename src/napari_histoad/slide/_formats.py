"""The formats of slides: those of this package, and those that other packages register."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoad.slide._dicom import DicomSlide
from napari_histoad.slide._openslide import MiraxSlide, OpenSlideSlide
from napari_histoad.slide._picture import PictureSlide
from napari_histoad.slide._tiff import TiffSlide
from napari_histoad.slide._zarr import OmeZarrSlide
from napari_histoad.system.extensions import load_extensions

if TYPE_CHECKING:
    from napari_histoad.slide._base import Slide

BUILT_IN: tuple[type[Slide], ...] = (TiffSlide, OmeZarrSlide, DicomSlide, PictureSlide, MiraxSlide, OpenSlideSlide)


def slide_formats() -> list[type[Slide]]:
    """Return all formats in the order in which they are tried: by priority, those of other packages first among equals."""
    others = load_extensions("napari_histoad.slide_formats").values()
    return sorted([*others, *BUILT_IN], key=lambda one: -one.priority)
