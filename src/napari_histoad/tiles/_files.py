"""Tiles that are picture files: in a folder, or listed in a manifest with labels and groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from napari_histoad.errors import SettingsError
from napari_histoad.slide import can_open, is_slide
from napari_histoad.tiles._class_names import ALL_TILES, kind_of
from napari_histoad.tiles._folders import (
    class_level_missing,
    find_tiles,
    has_training_folder,
    is_left_for_testing,
    sort_into_classes,
    walk,
)
from napari_histoad.tiles._manifest import read_manifest
from napari_histoad.tiles._picture import PICTURE_SUFFIXES, picture_size, read_picture
from napari_histoad.tiles._tile_set import TilePlace, TileSet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histoad.tiles._folders import FoundTile
    from napari_histoad.tiles._manifest import Manifest

_SHOWN = 3


@dataclass(frozen=True)
class TileFile:
    """A tile that is a picture file, listed in a manifest or found in a folder."""

    path: Path
    name: str  # as listed
    label: int | None  # 0 for normal; None if unknown
    group: str  # what it comes from, such as a patient; never split between training and testing
    class_name: str = ""  # empty if unknown


class NormalTiles(NamedTuple):
    """The normal tiles of a folder or manifest."""

    files: list[TileFile]
    notes: tuple[str, ...]  # sentences about what was used, left out and assumed
    grouped: bool  # the manifest or the folders state which tiles belong together


def list_tile_files(source: Path) -> list[TileFile]:
    """Return the tiles of a folder, or of a manifest.csv with the column file and optionally label, class and group.

    In a folder, the class of a tile is the innermost folder with a known name (normal, benign, 0, tumour …), and its group are
    the folders above and below that; the label is None if no folder has a known name.

    Raises
    ------
    SettingsError
        If there are no tiles, or the manifest is invalid.
    """
    if source.is_dir():
        found = sort_into_classes(source, find_tiles(source))
        tiles = [_as_file(tile, source) for tile in found]
    else:
        tiles = [TileFile(t.path, t.name, t.label, t.group or t.name, t.class_name) for t in _manifest(source).tiles]
    _check_some(tiles, source)
    return tiles


def list_normal_files(source: Path, normal: Collection[str] = ()) -> NormalTiles:
    """Return the normal tiles of a folder or manifest, with notes on what was left out.

    From a manifest, these are the tiles with label 0 or a class that means normal; without both columns, all tiles. From a folder
    with class folders, the tiles in those that mean normal; with folders for training and testing, the training tiles; otherwise
    all tiles.

    Parameters
    ----------
    source : Path
    normal : collection of str
        Names of the normal classes, instead of the known names; ``all-tiles`` if all tiles are normal.

    Raises
    ------
    SettingsError
        If there are no normal tiles, or no class is known to mean normal.
    """
    if source.is_dir():
        found = sort_into_classes(source, find_tiles(source), normal)
        _check_some(found, source)
        training = has_training_folder(found)
        kept = [tile for tile in found if not is_left_for_testing(tile, beside_training=training)]
        tiles = [_as_file(tile, source) for tile in kept]
        notes = [f"{source.name}: {len(found) - len(kept):,} tiles for testing, or masks, are left out."] if kept != found else []
        classes = any(tile.class_name or tile.label is not None for tile in kept) and ALL_TILES not in normal
        unclear = [] if classes or normal else class_level_missing(kept)
        if unclear:
            names = ", ".join(unclear[:_SHOWN]) + (" …" if len(unclear) > _SHOWN else "")
            raise SettingsError(f"the folders of {source.name} ({names}) may be classes, but none is known as normal", _WAY_OUT)
        if normal and not classes and ALL_TILES not in normal:
            there = ", ".join(sorted({name for tile in kept for name in tile.folders})) or "none"
            raise SettingsError(f"no folder of {source.name} is named {' or '.join(normal)} (there are: {there})", _WAY_OUT)
        if kind_of(source.name) == "anomalous" and not classes and not normal:
            notes.append(f"{source.name} has the name of an anomaly, but its tiles are used as normal.")
        others = (path for path in walk(source) if path.suffix.lower() not in PICTURE_SUFFIXES)
        slides = sorted(path.relative_to(source).as_posix() for path in others if can_open(path))
        if slides:
            named = ", ".join(slides[:_SHOWN]) + (" …" if len(slides) > _SHOWN else "")
            notes.append(f"{source.name}: only its tiles are read; to read the slides in it ({named}), give their paths.")
        grouped = len({tile.group for tile in kept if not classes or tile.label == 0}) > 1
    else:
        manifest = _manifest(source, normal)
        tiles = [TileFile(t.path, t.name, t.label, t.group or t.name, t.class_name) for t in manifest.tiles]
        _check_some(tiles, source)
        notes, classes = list(manifest.notes), manifest.labelled and ALL_TILES not in normal
        grouped = len({t.group for t in manifest.tiles if t.group and (not classes or t.label == 0)}) > 1
        if not manifest.labelled:
            notes.append(f"{source.name} has no labels: all of its {len(tiles):,} tiles are used as normal.")
    if not classes:
        return NormalTiles(tiles, tuple(notes), grouped)
    chosen = [tile for tile in tiles if tile.label == 0]
    if not chosen:
        msg = f"no tile of {source.name} is known as normal (there are: {_counts(tiles)})"
        raise SettingsError(msg, _WAY_OUT)
    left = [tile for tile in tiles if tile.label != 0]
    taken = f"{source.name}: {_counts(chosen)} used as normal"
    return NormalTiles(chosen, (*notes, f"{taken}; left out: {_counts(left)}." if left else f"{taken}."), grouped)


_WAY_OUT = f"state which class is normal: --normal-class NAME (Python: normal_class); {ALL_TILES} if all are"


def _counts(tiles: Sequence[TileFile]) -> str:
    counts = Counter(tile.class_name or "without a label" for tile in tiles)
    return ", ".join(f"{name} ({count:,} tiles)" for name, count in sorted(counts.items()))


def _as_file(tile: FoundTile, source: Path) -> TileFile:
    return TileFile(tile.path, tile.path.relative_to(source).as_posix(), tile.label, tile.group, tile.class_name)


def _manifest(source: Path, normal: Collection[str] = ()) -> Manifest:
    if source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        if not source.exists():
            raise SettingsError(f"there is no folder or table {source}", "check the path")
        raise SettingsError(f"{source} is neither a folder of tiles nor a manifest.csv", "check the path")
    return read_manifest(source, () if ALL_TILES in normal else normal)


def _check_some(tiles: Sequence[object], source: Path) -> None:
    slides = [] if tiles or not source.is_dir() else sorted(p.name for p in source.iterdir() if can_open(p) and is_slide(p))
    if slides:
        raise SettingsError(
            f"{source} is a folder of slides, not of tiles", f"give the slides themselves: {source / slides[0]} …"
        )
    if not tiles:
        raise SettingsError(f"{source} contains no tiles", f"tiles are files that end in {', '.join(sorted(PICTURE_SUFFIXES))}")


def check_tile_files(tiles: Sequence[TileFile]) -> tuple[dict[int, tuple[int, int]], dict[int, SettingsError]]:
    """Return (height, width) of the readable tiles, and the errors of the others, both by index."""
    sizes, errors = {}, {}
    for k, tile in enumerate(tiles):
        try:
            sizes[k] = picture_size(tile.path)
        except SettingsError as err:
            errors[k] = err
    return sizes, errors


def tile_side(sizes: Collection[tuple[int, int]], accepts: Callable[[int], bool], where: str) -> tuple[int, str]:
    """Return the tile side of a detector to be trained on tiles of these sizes, and a note if they must be resized.

    It is the side of the files, or the nearest that the method accepts.

    Raises
    ------
    SettingsError
        If the files have several sizes or are not square: then the user has to choose.
    """
    kinds = Counter(sizes).most_common()
    if len(kinds) > 1 or kinds[0][0][0] != kinds[0][0][1]:
        shown = ", ".join(f"{h} x {w} px ({count:,})" for (h, w), count in kinds[:_SHOWN])
        what = "of several sizes" if len(kinds) > 1 else "not square"
        remedy = "state the side to which they are resized: --tile-px 256; if they are larger pictures, give these as slides"
        raise SettingsError(f"the tiles of {where} are {what}: {shown}", remedy)
    side = kinds[0][0][0]
    near = sorted(range(32, 1025, 8), key=lambda other: (abs(other - side), -other))
    best = next((other for other in near if accepts(other)), side) if not accepts(side) else side
    note = f"Tiles of {side} px are resized to {best} px, the nearest side that the method accepts." if best != side else ""
    return best, note


def read_tile_files(
    tiles: Sequence[TileFile],
    tile_px: int,
    *,
    resize: bool = True,
    errors: dict[int, SettingsError] | None = None,
) -> TileSet:
    """Read tiles that are picture files into memory, in their listed groups.

    Parameters
    ----------
    tiles : sequence of TileFile
    tile_px : int
        Side of the tiles in pixels.
    resize : bool
        Whether tiles of another size are resized; otherwise they are an error.
    errors : dict of int to SettingsError, optional
        Receives the errors of tiles that cannot be read, by index, and these are left out. Without it the first error is raised.

    Raises
    ------
    SettingsError
        If a file is missing, not a picture, or of another size.
    """
    images = np.empty((len(tiles), tile_px, tile_px, 3), np.uint8)
    good: list[int] = []
    for k, tile in enumerate(tiles):
        try:
            images[len(good)] = _fitted(read_picture(tile.path), tile, tile_px, resize=resize)
            good.append(k)
        except SettingsError as err:
            if errors is None:
                raise
            errors[k] = err
    kept = [tiles[k] for k in good]
    groups = np.unique([tile.group for tile in kept], return_inverse=True)[1].astype(np.int64)
    apart = len(np.unique(groups)) == len(kept)
    grouping = "tile files" if apart else "groups of tile files"
    slides = np.full(len(kept), -1) if apart else None
    return TileSet(images[: len(good)], groups, (), tuple(TilePlace(tile.name) for tile in kept), grouping, slides)


def _fitted(pixels: NDArray[np.uint8], tile: TileFile, tile_px: int, *, resize: bool) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if (height, width) == (tile_px, tile_px):
        return pixels
    if not resize:
        msg = f"tile {tile.path.name} is {height} x {width} px, but the detector needs {tile_px} x {tile_px}"
        raise SettingsError(msg, "add --resize, or train a detector for that size")
    return np.asarray(Image.fromarray(pixels).resize((tile_px, tile_px), Image.Resampling.LANCZOS))
