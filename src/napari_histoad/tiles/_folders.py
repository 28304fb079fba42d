"""Folders of tiles: finding the tiles, and their classes and groups from the names of folders and files."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_histoad.tiles._class_names import ALL_TILES, kind_of, words_of
from napari_histoad.tiles._picture import PICTURE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_SKIPPED = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db"}
_NUMBERED = re.compile(r"(?:class|label)?[ _-]?(\d)", re.IGNORECASE)
_NUMBERED_FILE = re.compile(r"(?:class|label)[ _-]?(\d)$", re.IGNORECASE)
_TRAIN, _TEST = {"train", "training"}, {"test", "testing", "val", "valid", "validation", "eval"}
_GENERIC = frozenset(
    {"patient", "subject", "case", "donor", "sample", "specimen", "slide", "wsi", "scan", "image", "tile", "patch", "block"}
    | {"core", "site", "center", "centre", "hospital", "batch", "group", "fold", "part", "set", "roi", "region", "level"}
    | {"id", "data", "images", "tiles", "patches", *_TRAIN, *_TEST}
)
"""Words in folder names that describe the content of a folder, not a class."""


@dataclass(frozen=True)
class FoundTile:
    """A tile in a folder."""

    path: Path
    folders: tuple[str, ...]  # between the source and the file
    label: int | None = None  # 0 for normal, 1 for anomalous; None if unknown
    class_name: str = ""
    group: str = ""  # what the tile comes from according to its folders; empty if unknown


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files and folders in a folder and its subfolders; hidden ones and those of systems are ignored."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to a folder above would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not _skipped(name)]
        yield from (Path(place, name) for name in (*folders, *names) if not _skipped(name))


def find_tiles(folder: Path) -> list[Path]:
    """Return the picture files in a folder and its subfolders, sorted."""
    pictures = (path for path in walk(folder) if path.suffix.lower() in PICTURE_SUFFIXES)
    # A broken link is kept, to be reported when it is read; reading a pipe would never end.
    return sorted(path for path in pictures if path.is_file() or (path.is_symlink() and not path.is_dir()))


def _skipped(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SKIPPED


def sort_into_classes(folder: Path, paths: Sequence[Path], normal: Collection[str] = ()) -> list[FoundTile]:
    """Return tiles with their class and group, from the names of their folders, else with the class from their file names.

    The class is the innermost folder with a known name (normal, benign, 0, tumour …) or, if the user declares some ``normal``,
    one of these; ``all-tiles`` declares all. The folders above and below it are the group, so that class folders of different
    patients are different groups, and those of one patient the same.
    """
    parts = [path.relative_to(folder).parts[:-1] for path in paths]
    if ALL_TILES in normal:
        return [replace(tile, label=0, class_name="") for tile in sort_into_classes(folder, paths)]
    chosen = {name.casefold() for name in normal}
    numbered = _numbered_levels(parts)
    places = [_class_place(folders, chosen, numbered) for folders in parts]
    depths = Counter(place for place, _ in places if place is not None)
    usual = depths.most_common(1)[0][0] if depths else None
    found = []
    for path, folders, (place, label) in zip(paths, parts, places, strict=True):
        at = usual if place is None else place
        if at is None or at >= len(folders):
            found.append(FoundTile(path, folders, None, "", _group(folders)))
        else:
            found.append(FoundTile(path, folders, label, folders[at], _group(folders, at)))
    return found if depths or chosen else _by_file_names(found)


def class_level_missing(tiles: Sequence[FoundTile]) -> list[str]:
    """Return the names of folders that may be classes although none is known; empty if they look like patient or slide IDs."""
    for depth in range(max((len(tile.folders) for tile in tiles), default=0)):
        names = sorted({tile.folders[depth] for tile in tiles if len(tile.folders) > depth})
        if len(names) > 1 and not all(_is_identifier(name) for name in names):
            return names
    return []


def is_left_for_testing(tile: FoundTile, *, beside_training: bool) -> bool:
    """Return whether a tile is in a folder for testing, if there is one for training; or is a mask in MVTec's layout."""
    lower = {name.casefold() for name in tile.folders}
    return bool(lower & {"ground_truth", "mask", "masks"}) or (beside_training and bool(lower & _TEST))


def has_training_folder(tiles: Sequence[FoundTile]) -> bool:
    """Return whether some tiles are in a folder for training."""
    return any(name.casefold() in _TRAIN for tile in tiles for name in tile.folders)


def _is_identifier(name: str) -> bool:
    words = words_of(name)
    return any(letter.isdigit() for letter in name) or all(len(word) <= 2 or word in _GENERIC for word in words)


def _numbered_levels(parts: Sequence[tuple[str, ...]]) -> set[int]:
    """Return the depths at which all folders are named 0, 1, … or class0, class1, …, that is, after class numbers."""
    levels = set()
    for depth in range(max(map(len, parts), default=0)):
        numbers = {_NUMBERED.fullmatch(folders[depth]) for folders in parts if len(folders) > depth}
        if all(numbers) and any(m is not None and m[1] == "0" for m in numbers):
            levels.add(depth)
    return levels


def _class_place(folders: tuple[str, ...], chosen: set[str], numbered: set[int]) -> tuple[int | None, int | None]:
    """Return (depth of the class folder, label), both None if there is none."""
    for depth in reversed(range(len(folders))):
        name = folders[depth]
        if chosen:
            if name.casefold() in chosen:
                return depth, 0
        elif depth in numbered:
            number = _NUMBERED.fullmatch(name)
            return depth, int(number is None or number[1] != "0")
        elif kind := kind_of(name):
            return depth, int(kind != "normal")
    return None, None


def _group(folders: tuple[str, ...], without: int | None = None) -> str:
    """Return the group of a tile: its folders without the class and the parts of a data set (train, test, …)."""
    kept = [
        name
        for depth, name in enumerate(folders)
        if name.casefold() not in _TRAIN | _TEST and (depth != without or re.search(r"[^\W\d_].*\d$", name))
    ]
    return "/".join(kept)


def _by_file_names(tiles: list[FoundTile]) -> list[FoundTile]:
    """Return the tiles with classes from their file names, if at least one file name means anomalous."""
    kinds = [_kind_of_file(tile.path.stem) for tile in tiles]
    if "anomalous" not in kinds and ("normal" not in kinds or all(kinds)):
        return tiles
    labels = {"normal": 0, "anomalous": 1, "": None}
    return [
        FoundTile(tile.path, tile.folders, labels[kind], kind or "unknown", tile.group)
        for tile, kind in zip(tiles, kinds, strict=True)
    ]


def _kind_of_file(stem: str) -> str:
    if number := _NUMBERED_FILE.search(stem):
        return "normal" if number[1] == "0" else "anomalous"
    kinds = {kind_of(word) for word in words_of(stem) if len(word) > 3}
    return kind_of(stem) or ("anomalous" if "anomalous" in kinds else "normal" if "normal" in kinds else "")
