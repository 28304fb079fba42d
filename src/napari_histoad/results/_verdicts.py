"""What people said of tiles of a map, and which tiles to ask them about next."""

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

    from napari_histoad.maps._store import AnomalyMap

    Box = tuple[float, float, float, float]

__all__ = ["UNSURE", "VERDICTS", "Verdict", "Verdicts", "propose_tiles", "verdict_file"]

UNSURE = "Unsure"
VERDICTS = ("Normal", "Anomalous", "Artefact", UNSURE)
"""What can be said; of the last nothing is learnt."""

_TIME = "Judged at (Unix time, s)"
_APART = 1.5
_SET_ASIDE = re.compile(r"\.earlier-\d+$")
_EVEN = 1e-12


def verdict_file(source: AnomalyMap) -> Path:
    """Return where the verdicts on a slide lie: beside its maps, so that they outlive each of them.

    A map that was set aside for another detector's shares them: they are on the slide.
    """
    stem = _SET_ASIDE.sub("", source.path.name.removesuffix(".ome.zarr"))
    return source.path.with_name(f"{stem}.verdicts.geojson")


@dataclass(frozen=True)
class Verdict:
    """What was said of one tile.

    Attributes
    ----------
    box : tuple[float, float, float, float]
        (y0, x0, y1, x1) in level-0 pixels.
    name : str
        One of `VERDICTS`.
    time : float
        When, in seconds since 1970; not by whom.
    """

    box: Box
    name: str
    time: float


class Verdicts:
    """Verdicts on a slide, in a GeoJSON file of regions; each change is saved at once and can be undone.

    Parameters
    ----------
    path : Path
        Read if it is there.

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
        """Return what was said of a tile, or None."""
        return next((v.name for v in self._all if np.allclose(v.box, box)), None)

    def counts(self) -> dict[str, int]:
        """Return how often each was said."""
        return {name: n for name in VERDICTS if (n := sum(v.name == name for v in self._all))}

    def give(self, box: Box, name: str) -> None:
        """Say something of a tile, instead of what was said before, and save.

        Raises
        ------
        OutputError
            If it cannot be saved; then nothing has changed.
        """
        before = self._all
        self._save([*(v for v in before if not np.allclose(v.box, box)), Verdict(box, name, round(time.time(), 3))])
        self._history.append(before)

    def undo(self) -> Box | None:
        """Take the last change back, save, and return the tile that it spoke of; None if there is nothing to undo.

        Raises
        ------
        OutputError
            If it cannot be saved; then nothing has changed.
        """
        if not self._history:
            return None
        spoken = self._all[-1].box
        self._save(self._history[-1])
        self._history.pop()
        return spoken

    def _save(self, verdicts: list[Verdict]) -> None:
        if verdicts:
            write_geojson([Region(polygon(*v.box), v.name, {_TIME: v.time}) for v in verdicts], self.path)
        else:
            with writing(self.path):
                self.path.unlink(missing_ok=True)
        self._all = verdicts


def propose_tiles(source: AnomalyMap, verdicts: Verdicts | None = None, count: int = 24) -> NDArray[np.int64]:
    """Return which tiles to look at next, (N,) rows of the tile table, the most telling first.

    Without class probabilities, those are the highest scores; with them, the tiles whose class is least certain. No two are
    neighbours, and none lies on a tile that was judged: 24 pictures of one spot say no more than one.

    Parameters
    ----------
    source : AnomalyMap
    verdicts : Verdicts, optional
    count : int
        At most.
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
    """Return the entropy of the class probabilities of each tile."""
    p = probabilities.astype(np.float64)
    entropy: NDArray[np.float64] = -(p * np.log(np.maximum(p, _EVEN))).sum(axis=1)
    return entropy
