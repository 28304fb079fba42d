"""Training tiles in memory and their groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import TooFewTilesError
from napari_histoad.system.tables import number, read_table, write_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_RUNS = 4
"""Number of parts into which a group with nearly all tiles is cut."""
_COLUMNS = ("source", "y0", "x0", "y1", "x1")


@dataclass(frozen=True)
class TilePlace:
    """The origin of a tile."""

    source: str  # name of the slide or of the tile file
    box: tuple[float, float, float, float] | None = None  # (y0, x0, y1, x1) in level-0 pixels; None for a tile file


@dataclass(frozen=True)
class TileSet:
    """Training tiles and their groups.

    Attributes
    ----------
    images : (N, H, W, 3) uint8
    groups : (N,) int64
        Tiles of one group are never split between training and calibration: a slide, a drawn region, or a
        spatial block of one.
    sources : tuple[str, ...]
        Names of the slides or folders that the tiles were read from.
    places : tuple[TilePlace, ...]
        The origin of each tile, or empty.
    grouping : str
        What a group is, as a plural noun: slides, outlines, blocks of one slide, tile files.
    slides : (N,) int64 or None
        The slide or patient of each tile, which may have several groups; -1 where it is not known. None: each group is one.
    """

    images: NDArray[np.uint8]
    groups: NDArray[np.int64]
    sources: tuple[str, ...] = ()
    places: tuple[TilePlace, ...] = ()
    grouping: str = "groups"
    slides: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, keep: NDArray[np.int64] | NDArray[np.bool_]) -> TileSet:
        """Return the tiles selected by ``keep`` (mask or indices)."""
        rows = np.arange(len(self))[keep]
        places = tuple(self.places[row] for row in rows) if self.places else ()
        return TileSet(self.images[keep], self.groups[keep], self.sources, places, self.grouping, self.slide_of[keep])

    @property
    def slide_of(self) -> NDArray[np.int64]:
        """(N,) int64: the slide or patient of each tile, -1 where it is not known."""
        return self.groups if self.slides is None else self.slides

    @staticmethod
    def concatenate(sets: Sequence[TileSet]) -> TileSet:
        """Return the tiles of several sets as one; groups and slides of different sets stay different ones."""
        groups, slides, first, first_slide = [], [], 0, 0
        for part in sets:
            groups.append(part.groups + first)
            slides.append(np.where(part.slide_of < 0, -1, part.slide_of + first_slide))
            first += int(part.groups.max(initial=-1)) + 1
            first_slide += int(part.slide_of.max(initial=-1)) + 1
        sources = tuple(s for part in sets for s in part.sources)
        places = tuple(p for part in sets for p in part.places) if all(part.places for part in sets) else ()
        grouping = " and ".join(dict.fromkeys(part.grouping for part in sets))
        images = np.concatenate([part.images for part in sets])
        return TileSet(images, np.concatenate(groups), sources, places, grouping, np.concatenate(slides))

    def divided(self, least: int, *, single: bool = False) -> TileSet:
        """Return the tiles in groups that allow holding out at least ``least`` tiles and keeping at least half.

        The groups are unchanged if they allow that already. Otherwise the largest group, or with ``single`` even the only one, is
        cut into runs of neighbours; held-out tiles may then be neighbours of kept tiles. Raises `TooFewTilesError` if there are
        fewer than twice as many tiles, or too few groups.
        """
        if len(self) < 2 * least:
            msg = f"only {len(self)} normal tiles; at least {2 * least} are needed to train on some and calibrate on the others"
            raise TooFewTilesError(msg, "outline more normal tissue, or use smaller tiles (--tile-px 128)")
        if not single:
            self._groups()
        tiles = self
        while _held_out_groups(np.unique(tiles.groups, return_counts=True)[1], least, least) is None:
            groups = tiles.groups.copy()
            ids, sizes = np.unique(groups, return_counts=True)
            rows = np.flatnonzero(groups == ids[sizes.argmax()])  # in the order they were read in: row by row, file by file
            groups[rows] = groups.max() + 1 + np.arange(len(rows)) * _RUNS // len(rows)
            tiles = replace(tiles, groups=groups, slides=self.slide_of)
        return tiles

    def split(self, held_out: float, rng: np.random.Generator, least: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (kept, held out) indices, split by group so that neighbours do not leak.

        Parameters
        ----------
        held_out : float
            Fraction of the tiles to hold out, in (0, 1).
        rng : Generator
            Chooses the groups.
        least : int
            Smallest number of tiles to hold out, even if that exceeds the fraction. At least half of the tiles is kept.

        Raises
        ------
        TooFewTilesError
            If there are fewer than two groups, or no groups with at least ``least`` and at most half of the tiles, see `divided`.
        """
        ids, sizes = self._groups()
        order = rng.permutation(len(ids))
        chosen = _held_out_groups(sizes[order], max(least, held_out * len(self)), least)
        if chosen is None:
            msg = f"the {len(self)} normal tiles nearly all come from one place"
            raise TooFewTilesError(msg, "outline normal tissue in a second place, or a larger area")
        mask = np.isin(self.groups, ids[order[chosen]])
        return np.flatnonzero(~mask), np.flatnonzero(mask)

    def folds(self, count: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (kept, held out) indices of ``count`` folds of about equal size, or fewer if there are fewer groups.

        Every tile is held out once, with all of its group.

        Raises
        ------
        TooFewTilesError
            If there are fewer than two groups.
        """
        ids, sizes = self._groups()
        # The largest groups first, each into the fold that is smallest so far.
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


def _held_out_groups(sizes: NDArray[np.int64], wanted: float, least: int) -> NDArray[np.int64] | None:
    """Return which groups to hold out; None if no choice has at least ``least`` and at most half of all tiles.

    These are the first groups, whose order is random, if their tiles come close to ``wanted``; else those that come closest.
    """
    total, taken = int(sizes.sum()), np.cumsum(sizes)
    most = max(least, total // 2)
    if len(sizes) < 2:
        return None
    n = int(np.argmin(np.abs(taken[:-1] - wanted))) + 1
    if least <= taken[n - 1] <= most:
        return np.arange(n)
    # The group by which each sum of tiles is first reached.
    by = np.full(total + 1, -1)
    by[0] = len(sizes)
    for group, size in enumerate(sizes.tolist()):
        reached = by[:-size] >= 0
        fresh = np.flatnonzero(reached & (by[size:] < 0)) + size
        by[fresh] = group
    sums = np.flatnonzero(by[: most + 1] >= 0)
    sums = sums[sums >= max(1, least)]
    if not len(sums):
        return None
    rest, chosen = int(sums[np.abs(sums - wanted).argmin()]), []
    while rest:
        chosen.append(int(by[rest]))
        rest -= int(sizes[by[rest]])
    return np.array(chosen)


def write_places(tiles: TileSet, path: Path) -> None:
    """Write the origins of tiles as a csv table: source, y0, x0, y1, x1 in level-0 pixels (empty for tile files)."""
    write_table(path, _COLUMNS, [(place.source, *(place.box or ("",) * 4)) for place in tiles.places])


def read_places(path: Path) -> list[TilePlace]:
    """Read a table that `write_places` has written."""
    rows = read_table(path, _COLUMNS, _COLUMNS).rows
    boxes = [tuple(number(row[c]) for c in _COLUMNS[1:]) if row["y0"] else None for row in rows]
    return [TilePlace(row["source"], box) for row, box in zip(rows, boxes, strict=True)]  # type: ignore[arg-type]
