"""Copies a slide that is only a layer to disk, where the background process can read it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import HistoadError
from napari_histoad.slide import convert_job, open_slide

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histoad.jobs import Job
    from napari_histoad.slide import Slide

_BAND_PX = 1024


def copy_job(slide: Slide, folder: Path) -> Job[Slide]:
    """Write a slide as a lossless TIFF into a folder, unless its copy is there already, and return the opened copy."""
    name = "".join(c if c.isalnum() or c in " ._-" else "_" for c in slide.path.name).strip(" .") or "layer"
    target = copy_path(slide, folder / f"{name}.tif")
    if not target.exists():
        yield from convert_job(slide, target, lossless=True)
    return open_slide(target, slide.mpp)


def copy_path(slide: Slide, path: Path) -> Path:
    """Return the path of a slide's copy: that of its earlier copy, else a free one such as ``image-2.tif``.

    Pixels are compared, for many layers are called ``image``, and each needs its own copy and results.
    """
    for number in itertools.count(1):
        numbered = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not numbered.exists() or _has_same_pixels(slide, numbered):
            return numbered
    raise AssertionError


def _has_same_pixels(slide: Slide, path: Path) -> bool:
    try:
        with open_slide(path) as copy:
            height, width = slide.shape
            bands = ((0, y, 0, min(_BAND_PX, height - y), width) for y in range(0, height, _BAND_PX))
            return copy.shape == slide.shape and all(np.array_equal(slide.read(*b), copy.read(*b)) for b in bands)
    except HistoadError:  # it is damaged, or something else
        return False
