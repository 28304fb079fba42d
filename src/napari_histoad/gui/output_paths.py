"""Paths for results: the folder beside the slide, and names that do not overwrite earlier files."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoad.slide import can_open, is_remote

if TYPE_CHECKING:
    from napari_histoad.slide import Slide


def free_name(path: Path) -> Path:
    """Return a path that does not exist yet: ``skin.combined.safetensors``, else ``skin.combined-2.safetensors`` and so on."""
    return free_names([path])[0]


def free_names(paths: list[Path]) -> list[Path]:
    """Return paths that do not exist yet, all with the same number, so that files of one run can be told by it."""
    for number in itertools.count(1):
        numbered = paths if number == 1 else [_numbered(path, number) for path in paths]
        if not any(p.exists() for p in numbered):
            return numbered
    raise AssertionError


def _numbered(path: Path, number: int) -> Path:
    suffix = ".ome.tif" if path.name.endswith(".ome.tif") else path.suffix
    return path.with_name(f"{path.name.removesuffix(suffix)}-{number}{suffix}")


def output_folder(slide: Slide) -> Path:
    """Return the folder for the results of a slide: beside it, or in the home folder where nothing can be written there.

    Slides of one folder whose names differ only in the extension get a folder each.
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
