"""Names for results that leave former ones as they are."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import HistoadError
from napari_histoad.slide import can_open, is_remote, open_slide

if TYPE_CHECKING:
    from napari_histoad.slide import Slide

__all__ = ["copy_name", "free_name", "free_names", "output_folder"]

_BAND_PX = 1024


def free_name(path: Path) -> Path:
    """Return a path at which nothing lies: ``skin.vqvae.safetensors``, else ``skin.vqvae-2.safetensors`` and so on."""
    return free_names([path])[0]


def free_names(paths: list[Path]) -> list[Path]:
    """Return paths at which nothing lies, all with the same number: files that belong together are seen to do so."""
    for number in itertools.count(1):
        numbered = paths if number == 1 else [p.with_name(f"{p.stem}-{number}{p.suffix}") for p in paths]
        if not any(p.exists() for p in numbered):
            return numbered
    raise AssertionError


def copy_name(slide: Slide, path: Path) -> Path:
    """Return where the copy of a slide that is no file goes: where it lies from before, else at a name that is free.

    Many a layer is called ``image``: results of one are not those of another.
    """
    for number in itertools.count(1):
        numbered = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not numbered.exists() or _shows_the_same(slide, numbered):
            return numbered
    raise AssertionError


def _shows_the_same(slide: Slide, path: Path) -> bool:
    try:
        with open_slide(path) as copy:
            height, width = slide.shape
            bands = ((0, y, 0, min(_BAND_PX, height - y), width) for y in range(0, height, _BAND_PX))
            return copy.shape == slide.shape and all(np.array_equal(slide.read(*b), copy.read(*b)) for b in bands)
    except HistoadError:  # it is damaged, or something else
        return False


def output_folder(slide: Slide) -> Path:
    """Return where results of a slide go unless told otherwise: beside it, or at home where nothing can be written there.

    Where another slide of the folder has the same name but for the extension, each has a folder of its own in there.
    """
    at_home = Path.home() / "anomaly-maps"
    if not slide.on_disk or is_remote(slide.path):
        return at_home
    beside = slide.path.parent
    folder = beside / "anomaly-maps"
    if not os.access(folder if folder.exists() else beside, os.W_OK):
        return at_home
    namesakes = [p for p in beside.glob(f"{_escaped(slide.path.stem)}.*") if p != slide.path and can_open(p)]
    return folder / slide.path.name if any(p.stem == slide.path.stem for p in namesakes) else folder


def _escaped(stem: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in stem)
