"""Tile files as training sources: which can be read, their size, and which belong to one group."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from napari_histoad.detectors import detector_class
from napari_histoad.errors import SettingsError
from napari_histoad.tiles import check_tile_files, near_duplicates, read_tile_files, tile_side

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from napari_histoad.tiles import NormalTiles, TileFile, TileSet

_MOST_CHECKED = 2000
_MIN_CLUSTERS = 8
_SHOWN = 3


def accepts_side(detector: str, settings: Mapping[str, Any]) -> Callable[[int], bool]:
    """Return a function that tells whether a method accepts tiles of a side in pixels."""

    def accepts(side: int) -> bool:
        try:
            detector_class(detector).Settings(**{**settings, "tile_px": side})
        except ValidationError:
            return False
        return True

    return accepts


def own_side(files: Sequence[TileFile], accepts: Callable[[int], bool], where: str) -> tuple[int, str]:
    """Return the tile size to train with on these files, and a note if it is not theirs.

    It is the size of the files, or the nearest one that the method accepts. At most 2,000 files are checked. Raises
    `SettingsError` if their sizes differ, they are not square, or none can be read.
    """
    sizes, errors = check_tile_files(files[:: -(-len(files) // _MOST_CHECKED)])
    if not sizes:
        raise next(iter(errors.values()))
    return tile_side(list(sizes.values()), accepts, where)


def fits_by_resizing(files: Sequence[TileFile], tile_px: int, accepts: Callable[[int], bool]) -> tuple[bool, str]:
    """Return whether training on these files would have resized them to ``tile_px``, and if so a note."""
    try:
        side, note = own_side(files, accepts, "")
    except SettingsError:  # several sizes, or none: reported file by file
        return False, ""
    return side == tile_px and bool(note), note if side == tile_px else ""


def read_good_tiles(files: Sequence[TileFile], tile_px: int, where: str) -> tuple[TileSet, list[TileFile], list[str]]:
    """Read tile files; return the tiles, their files, and notes on files that were left out or resized; an error if all were."""
    sizes, _ = check_tile_files(files)
    errors: dict[int, SettingsError] = {}
    tiles = read_tile_files(files, tile_px, errors=errors)
    if not len(tiles):
        raise next(iter(errors.values()))
    notes = []
    if errors:
        reasons = "; ".join(err.what for err in list(errors.values())[:_SHOWN])
        more = f"; and {len(errors) - _SHOWN:,} more" if len(errors) > _SHOWN else ""
        notes.append(f"{where}: {len(errors):,} of {len(files):,} tiles are left out: {reasons}{more}.")
    other = Counter(size for k, size in sizes.items() if size != (tile_px, tile_px) and k not in errors)
    if other:
        kinds = ", ".join(f"{h} x {w} px ({count:,})" for (h, w), count in other.most_common(_SHOWN))
        notes.append(f"{where}: tiles are resized to {tile_px} px: {kinds}.")
    return tiles, [file for k, file in enumerate(files) if k not in errors], notes


def grouped_tiles(tiles: TileSet, chosen: NormalTiles, where: str, *, alone: bool) -> tuple[TileSet, str]:
    """Return tiles with their groups, and a note if these had to be guessed.

    Groups come from folders or the table. Without them, each of several sources is one group; in a single source,
    near-duplicate tiles form groups and all other tiles count as independent.
    """
    if chosen.grouped:
        return tiles, ""
    if not alone:
        return replace(tiles, groups=np.zeros_like(tiles.groups), grouping="folders of tile files", slides=None), ""
    clusters = near_duplicates(tiles.images)
    found = len(np.unique(clusters))
    if found < _MIN_CLUSTERS:
        clusters, found = np.arange(len(tiles)), len(tiles)
    copies = f"near-duplicates are grouped ({found:,} clusters) and" if found < len(tiles) else "each is its own group and"
    note = (
        f"{where}: the {len(tiles):,} tiles have no groups (a folder per slide or patient, or a column group), so {copies} "
        "error rates assume that tiles are independent of each other."
    )
    grouping = "clusters of near-duplicate tiles" if found < len(tiles) else "tile files"
    return replace(tiles, groups=clusters.astype(np.int64), grouping=grouping, slides=np.full(len(tiles), -1)), note
