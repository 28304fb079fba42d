"""Pixels: whole-slide images, opened lazily and read by region.

`open_slide` returns a `Slide`. Each format is one class in a file of its own, listed in ``_formats.py``: TIFF of most vendors
is decoded directly, OpenSlide reads what no other class supports. `ArraySlide` makes a slide of any array, and `convert_job`
writes any slide as a pyramidal TIFF.
"""

from napari_histoad.slide._array import ArraySlide
from napari_histoad.slide._base import Level, Slide, UnsupportedVariantError, check_mpp
from napari_histoad.slide._colour import GLASS, ColourTable
from napari_histoad.slide._fingerprint import SlideFingerprint, take_fingerprint
from napari_histoad.slide._mpp import GivenMpp, StatedMpp, listed_mpp
from napari_histoad.slide._name import file_name, slide_name
from napari_histoad.slide._open import can_open, is_slide, open_slide
from napari_histoad.slide._pyramid import LevelArray, level_arrays, pyramid
from napari_histoad.slide._recoloured import RecolouredSlide
from napari_histoad.slide._remote import address, is_remote, is_url, locate, slide_path
from napari_histoad.slide._tile_cache import memory_for_tiles
from napari_histoad.slide._write import BAND_PX, convert_job, pyramid_job

__all__ = [
    "BAND_PX",
    "GLASS",
    "ArraySlide",
    "ColourTable",
    "GivenMpp",
    "Level",
    "LevelArray",
    "RecolouredSlide",
    "Slide",
    "SlideFingerprint",
    "StatedMpp",
    "UnsupportedVariantError",
    "address",
    "can_open",
    "check_mpp",
    "convert_job",
    "file_name",
    "is_remote",
    "is_slide",
    "is_url",
    "level_arrays",
    "listed_mpp",
    "locate",
    "memory_for_tiles",
    "open_slide",
    "pyramid",
    "pyramid_job",
    "slide_name",
    "slide_path",
    "take_fingerprint",
]
