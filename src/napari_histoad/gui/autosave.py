"""Saves outlines of normal tissue a second after a change, and restores them when the slide is opened again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from superqt.utils import qthrottled

from napari_histoad.errors import HistoadError
from napari_histoad.gui.output_paths import free_name
from napari_histoad.regions import read_regions, shapes_from_regions, write_geojson
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from qtpy.QtCore import QObject

    from napari_histoad.regions import Region

_AFTER_MS = 1000
_KIND = "napari_shape"


class Autosave:
    """Saves the outlines of the chosen slide.

    ``warn`` is called once per slide with a message if outlines cannot be saved, or are saved in another folder.
    """

    def __init__(self, parent: QObject, warn: Callable[[str], object]) -> None:
        self._warn = warn
        self._flush_soon = qthrottled(self.flush, timeout=_AFTER_MS, leading=False, parent=parent)
        self._read: Callable[[], tuple[list[Region], list[str]]] | None = None
        self._file: Path | None = None
        self._slide = ""
        self._stamps: dict[Path, tuple[int, int] | None] = {}
        self._pending = self._elsewhere = False
        self._quiet = False

    def open(
        self, folder: Path, name: str, slide: str, read: Callable[[], tuple[list[Region], list[str]]], *, elsewhere: bool
    ) -> Path | None:
        """Save the outlines of another slide from now on; return the file of its saved outlines, or None.

        The file is in ``folder`` and named after the slide's ``name``; ``slide`` identifies it among slides of the same name.
        ``read`` returns the outlines, and the napari shape type of each. ``elsewhere``: the folder is not beside the slide,
        because it is not writable there.
        """
        self.close()
        self._read, self._slide, self._elsewhere, self._quiet = read, slide, elsewhere, False
        first = folder / f"{name}.normal.geojson"
        number, file = 1, first
        while file.exists() and _slide_of(file) not in (slide, None if not elsewhere and number == 1 else slide):
            number += 1
            file = first.with_name(f"{first.stem}-{number}{first.suffix}")
        self._file = file
        return file if file.exists() else None

    def restored(self) -> None:
        """Allow the file to be overwritten: the layer holds its outlines now."""
        if self._file is not None and _slide_of(self._file) == self._slide:
            self._stamps[self._file] = _stamp(self._file)

    def removed(self) -> None:
        """Keep the file: the next outlines are not an edited version of it, and go to a new file."""
        if self._file is not None:
            self._stamps.pop(self._file, None)

    def changed(self) -> None:
        """Save within a second, also while the user continues to draw."""
        if self._file is not None and not self._pending:
            self._pending = True
            self._flush_soon()

    def close(self) -> None:
        """Save pending changes, then stop saving."""
        self.flush()
        self._read = self._file = None

    def flush(self) -> None:
        """Save pending changes now."""
        if not self._pending or self._file is None or self._read is None:
            return
        self._pending = False
        try:
            regions, kinds = self._read()
            if self._file.exists() and _stamp(self._file) != self._stamps.get(
                self._file
            ):  # written by another program, or in an earlier session
                self._file.rename(free_name(self._file))
            write_outlines(self._file, self._slide, regions, kinds)
            self._stamps[self._file] = _stamp(self._file)
        except (HistoadError, OSError) as err:
            self._warn_once(f"the outlines cannot be saved: {err}")
        else:
            if self._elsewhere:
                self._warn_once(f"The folder of the slide is not writable: its outlines are saved in {self._file.parent}.")

    def _warn_once(self, words: str) -> None:
        if not self._quiet:
            self._quiet = True
            self._warn(words)


def write_outlines(file: Path, slide: str, regions: list[Region], kinds: list[str]) -> None:
    """Write outlines as GeoJSON, atomically, with the identity of their slide and the napari shape types."""
    with atomic_path(file) as partial:
        write_geojson(regions, partial)
        document = json.loads(partial.read_text(encoding="utf-8"))
        for feature, kind in zip(document["features"], kinds, strict=True):
            feature["properties"][_KIND] = kind
        partial.write_text(json.dumps({**document, "slide": slide}), encoding="utf-8")


def read_outlines(file: Path) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Return vertices in level-0 pixels (napari order) and shape types of saved outlines, ellipses and rectangles included."""
    document = _document(file)
    features = document.get("features", [])
    if _slide_of(file) is not None and not features:  # the user has deleted all outlines
        return [], []
    regions = read_regions(file)
    kinds = [feature.get("properties", {}).get(_KIND, "polygon") for feature in features]
    if len(kinds) != len(regions):  # another program has edited the file
        kinds = ["polygon"] * len(regions)
    data: list[NDArray[np.float64]] = []
    types: list[str] = []
    for region, kind in zip(regions, kinds, strict=True):
        outlines, _ = shapes_from_regions([region])
        whole = len(outlines) == 1
        if kind == "ellipse" and whole and len(outlines[0]) % 4 == 0:
            outlines = [_corners(outlines[0])]
        elif not (kind == "rectangle" and whole and len(outlines[0]) == 4):
            kind = "polygon"
        data += outlines
        types += [kind] * len(outlines)
    return data, types


def _corners(ellipse: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the corners of the box around an ellipse whose vertices begin at the end of one half axis."""
    centre = ellipse.mean(axis=0)
    a, b = ellipse[0] - centre, ellipse[len(ellipse) // 4] - centre
    return np.array([centre - a - b, centre + a - b, centre + a + b, centre - a + b])


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _slide_of(file: Path) -> str | None:
    return _document(file).get("slide")


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
