"""Pixels: whole-slide images, opened lazily and read by region.

`open_slide` returns a `Slide`. Tiled TIFF and Aperio SVS are decoded directly; OpenSlide reads the rest.
"""

from napari_histoad.slide._array import ArraySlide
from napari_histoad.slide._base import Level, Slide, check_mpp
from napari_histoad.slide._open import can_open, open_slide
from napari_histoad.slide._pyramid import pyramid

__all__ = ["ArraySlide", "Level", "Slide", "can_open", "check_mpp", "open_slide", "pyramid"]
