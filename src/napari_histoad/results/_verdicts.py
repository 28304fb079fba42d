"""Verdicts: judgements of people on tiles of a map, and proposals which tiles to judge next."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from shapely.geometry import box as polygon

from napari_histoad.errors import writing
from napari_histoad.regions import Region, read_regions, write_geojson

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histoad.maps import AnomalyMap

    Box = tuple[float, float, float, float]

UNSURE = "Unsure"
VERDICTS = ("Normal", "Anomalous", "Artefact", UNSURE)
"""The possible judgements; tiles judged `UNSURE` are not used for training."""

_TIME = "Judged at (Unix time, s)"
_APART = 1.5
_SET_ASIDE = re.compile(r"\.earlier-\d+$")
_EVEN = 1e-12


def verdict_file(source: AnomalyMap) -> Path:
    """Return the path of the verdicts on a slide: beside its maps, so that they are kept when a map is replaced.

    A map that was renamed to make room for a newer one has the same file: verdicts belong to the slide.
    """
    stem = _SET_ASIDE.sub("", source.path.name.removesuffix(".ome.zarr"))
    return source.path.with_name(f"{stem}.verdicts.geojson")


@dataclass(frozen=True)
class Verdict:
    """A judgement of one tile.

    Attributes
    ----------
    box : tuple[float, float, float, float]
        (y0, x0, y1, x1) in level-0 pixels.
    name : str
        One of `VERDICTS`.
    time : float
        When it was judged, in seconds since 1970.
    """

    box: Box
    name: str
    time: float


class Verdicts:
    """The verdicts on a slide, in a GeoJSON file; each change is saved at once and can be undone.

    Parameters
    ----------
    path : Path
        The file; it is read if it exists.

    Raises
    ------
    RegionError
        If the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._all: list[Verdict] = []
        self._history: list[list[Verdict]] = []
        if path.exists():
            for region in read_regions(path):
                y0, x0, y1, x1 = region.geometry.bounds
                self._all.append(Verdict((y0, x0, y1, x1), region.name, region.measurements.get(_TIME, 0.0)))

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self._all)

    def of(self, box: Box) -> str | None:
        """Return the verdict on a tile, or None."""
        return next((v.name for v in self._all if np.allclose(v.box, box)), None)

    def counts(self) -> dict[str, int]:
        """Return the number of tiles per verdict; those without tiles are left out."""
        return {name: n for name in VERDICTS if (n := sum(v.name == name for v in self._all))}

    def give(self, box: Box, name: str) -> None:
        """Set the verdict on a tile, replace an earlier one, and save.

        Raises
        ------
        OutputError
            If the file cannot be saved; the verdicts are then unchanged.
        """
        before = self._all
        self._save([*(v for v in before if not np.allclose(v.box, box)), Verdict(box, name, round(time.time(), 3))])
        self._history.append(before)

    def undo(self) -> Box | None:
        """Undo the last change, save, and return the box of its tile; None if there is nothing to undo.

        Raises
        ------
        OutputError
            If the file cannot be saved; the verdicts are then unchanged.
        """
        if not self._history:
            return None
        box = self._all[-1].box
        self._save(self._history[-1])
        self._history.pop()
        return box

    def _save(self, verdicts: list[Verdict]) -> None:
        if verdicts:
            write_geojson([Region(polygon(*v.box), v.name, {_TIME: v.time}) for v in verdicts], self.path)
        else:
            with writing(self.path):
                self.path.unlink(missing_ok=True)
        self._all = verdicts


def propose_tiles(source: AnomalyMap, verdicts: Verdicts | None = None, count: int = 24) -> NDArray[np.int64]:
    """Return the tiles to judge next: those with the highest scores, or whose class is least certain.

    The proposed tiles do not overlap each other, nor tiles that were already judged.

    Parameters
    ----------
    source : AnomalyMap
        With class probabilities, the entropy over the classes is used instead of the score.
    verdicts : Verdicts, optional
        Verdicts so far.
    count : int
        Maximum number of tiles.

    Returns
    -------
    (N,) int64
        Rows of the tile table, most informative first.
    """
    worth = _uncertainty(source.probabilities) if source.info.classes else source.scores.astype(np.float64)
    centres = source.origins + source.info.tile_l0 / 2
    free = ~np.isnan(worth)
    apart = _APART * source.info.tile_l0
    for verdict in verdicts or ():
        y0, x0, y1, x1 = verdict.box
        free &= np.abs(centres - ((y0 + y1) / 2, (x0 + x1) / 2)).max(axis=1) >= apart
    chosen: list[int] = []
    for row in np.argsort(-np.where(free, worth, -np.inf), kind="stable"):
        if len(chosen) == count or not free.any():
            break
        if free[row]:
            chosen.append(int(row))
            free &= np.abs(centres - centres[row]).max(axis=1) >= apart
    return np.array(chosen, np.int64)


def _uncertainty(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the entropy of the class probabilities per tile."""
    p = probabilities.astype(np.float64)
    entropy: NDArray[np.float64] = -(p * np.log(np.maximum(p, _EVEN))).sum(axis=1)
    return entropy
