"""Training tiles in memory, with the group that each comes from."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import TooFewTilesError, writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TilePlace", "TileSet", "read_places", "write_places"]

_COLUMNS = ("source", "y0", "x0", "y1", "x1")


@dataclass(frozen=True)
class TilePlace:
    """Where a tile comes from.

    Attributes
    ----------
    source : str
        Name of the slide or of the tile file.
    box : tuple[float, float, float, float] or None
        (y0, x0, y1, x1) in level-0 pixels; None for a file.
    """

    source: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class TileSet:
    """Tiles and their groups.

    Attributes
    ----------
    images : (N, H, W, 3) uint8
    groups : (N,) int64
        Tiles of one group are never split between training and calibration: a slide, a drawn region, or a
        spatial block of one.
    sources : tuple[str, ...]
        What the tiles were read from, for the record.
    places : tuple[TilePlace, ...]
        Where each tile is, or empty.
    grouping : str
        What a group is, as a plural noun: slides, outlines, blocks of one slide, tile files.
    """

    images: NDArray[np.uint8]
    groups: NDArray[np.int64]
    sources: tuple[str, ...] = ()
    places: tuple[TilePlace, ...] = ()
    grouping: str = "groups"

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, keep: NDArray[np.int64] | NDArray[np.bool_]) -> TileSet:
        """Return the tiles that ``keep`` (mask or indices) names."""
        rows = np.arange(len(self))[keep]
        places = tuple(self.places[row] for row in rows) if self.places else ()
        return TileSet(self.images[keep], self.groups[keep], self.sources, places, self.grouping)

    @staticmethod
    def concatenate(sets: Sequence[TileSet]) -> TileSet:
        """Return all tiles of several sets; groups of different sets stay apart."""
        groups, first = [], 0
        for part in sets:
            groups.append(part.groups + first)
            first += int(part.groups.max(initial=-1)) + 1
        sources = tuple(s for part in sets for s in part.sources)
        places = tuple(p for part in sets for p in part.places) if all(part.places for part in sets) else ()
        grouping = " and ".join(dict.fromkeys(part.grouping for part in sets))
        return TileSet(np.concatenate([part.images for part in sets]), np.concatenate(groups), sources, places, grouping)

    def split(self, held_out: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (kept, held out) indices, split by group so that neighbours do not leak.

        Parameters
        ----------
        held_out : float
            Wanted share of the tiles in (0, 1).
        rng : Generator
            Decides which groups.

        Raises
        ------
        TooFewTilesError
            If there are fewer than two groups.
        """
        ids, sizes = self._groups()
        order = rng.permutation(len(ids))
        taken = np.cumsum(sizes[order])
        # At least one group on each side; otherwise the number of groups that comes closest to the wanted share.
        n = int(np.argmin(np.abs(taken[:-1] - held_out * len(self)))) + 1
        mask = np.isin(self.groups, ids[order[:n]])
        return np.flatnonzero(~mask), np.flatnonzero(mask)

    def folds(self, count: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (kept, held out) indices of folds of about equal size, fewer where there are fewer groups.

        Every tile is held out once, with all of its group.

        Raises
        ------
        TooFewTilesError
            If there are fewer than two groups.
        """
        ids, sizes = self._groups()
        # The largest groups first, each to the fold that is smallest so far.
        order = rng.permutation(len(ids))
        order = order[np.argsort(-sizes[order], kind="stable")]
        filled = np.zeros(min(count, len(ids)), np.int64)
        fold_of = np.empty(len(ids), np.int64)
        for group in order:
            fold_of[group] = filled.argmin()
            filled[fold_of[group]] += sizes[group]
        fold = fold_of[np.searchsorted(ids, self.groups)]
        for k in range(len(filled)):
            yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)

    def _groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ids, sizes = np.unique(self.groups, return_counts=True)
        if len(ids) < 2:
            msg = f"the {len(self)} normal tiles all come from one place"
            raise TooFewTilesError(msg, "outline normal tissue in a second place, or a larger area")
        return ids, sizes


def write_places(tiles: TileSet, path: Path) -> None:
    """Write where tiles are as a table: source, y0, x0, y1, x1 in level-0 pixels, empty for tiles that are files."""
    with writing(path), path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(_COLUMNS)
        table.writerows((place.source, *(place.box or ("",) * 4)) for place in tiles.places)


def read_places(path: Path) -> list[TilePlace]:
    """Read what `write_places` wrote."""
    with path.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.reader(handle))[1:]
    return [TilePlace(source, tuple(float(v) for v in box) if box[0] else None) for source, *box in rows]  # type: ignore[arg-type]
