"""Tiles that are files: a folder, or a manifest with labels and groups."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from napari_histoad.errors import SettingsError
from napari_histoad.tiles._set import TilePlace, TileSet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["TileFile", "list_tile_files", "read_tile_files"]

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}


@dataclass(frozen=True)
class TileFile:
    """One tile that is a file, as listed by a manifest or found in a folder.

    Attributes
    ----------
    path : Path
    name : str
        As listed.
    label : int or None
        0 for normal.
    group : str
        What it comes from; never split between training and testing.
    class_name : str
        Empty if unknown.
    """

    path: Path
    name: str
    label: int | None
    group: str
    class_name: str = ""


def list_tile_files(source: Path) -> list[TileFile]:
    """Return the tiles of a folder or of a manifest.csv with columns file, label, class, group, of which the first must be there.

    Raises
    ------
    SettingsError
        If nothing is there, or the manifest lacks its columns.
    """
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in _IMAGE_SUFFIXES)
        tiles = [TileFile(p, p.relative_to(source).as_posix(), None, p.parent.name) for p in paths]
    elif source.suffix.lower() == ".csv":
        tiles = _read_manifest(source)
    else:
        raise SettingsError(f"{source} is neither a folder of tiles nor a manifest.csv", "check the path")
    if not tiles:
        raise SettingsError(f"{source} holds no tiles", f"accepted are {', '.join(sorted(_IMAGE_SUFFIXES))}")
    return tiles


def _read_manifest(source: Path) -> list[TileFile]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise SettingsError(f"{source} cannot be read as a table ({err})", "give a UTF-8 csv file") from err
    if rows and "file" not in rows[0]:
        raise SettingsError(f"{source.name} has no column named file", "columns are file, label, group")
    tiles = []
    for line, row in enumerate(rows, start=2):
        label = (row.get("label") or "").strip()
        if label and not label.lstrip("-").isdigit():
            raise SettingsError(f"{source.name}, line {line}: label {label!r} is not a number", "0 is normal, 1 anomalous")
        path = source.parent / row["file"]
        named = (row.get("class") or label).strip()
        tiles.append(TileFile(path, row["file"], int(label) if label else None, row.get("group") or row["file"], named))
    return tiles


def read_tile_files(tiles: Sequence[TileFile], tile_px: int, *, resize: bool = True) -> TileSet:
    """Read tiles that are files; groups as listed.

    Parameters
    ----------
    tiles : sequence of TileFile
    tile_px : int
        Wanted side.
    resize : bool
        Whether tiles of another size are resized; otherwise they are refused.

    Raises
    ------
    SettingsError
        If a file is missing, no image, or of another size.
    """
    images = np.empty((len(tiles), tile_px, tile_px, 3), np.uint8)
    for k, tile in enumerate(tiles):
        try:
            with Image.open(tile.path) as image:
                if not resize and image.size != (tile_px, tile_px):
                    msg = f"tile {tile.path.name} is {image.height} x {image.width} px, the detector takes {tile_px} x {tile_px}"
                    raise SettingsError(msg, "add --resize, or train a detector for that size")
                images[k] = np.asarray(image.convert("RGB").resize((tile_px, tile_px), Image.Resampling.LANCZOS))
        except (OSError, UnidentifiedImageError) as err:
            raise SettingsError(f"tile {tile.path} cannot be read ({err})", "check the file or its line in the manifest") from err
    groups = np.unique([tile.group for tile in tiles], return_inverse=True)[1].astype(np.int64)
    apart = len(np.unique(groups)) == len(tiles)
    grouping = "tile files" if apart else "groups of tile files"
    return TileSet(images, groups, places=tuple(TilePlace(tile.name) for tile in tiles), grouping=grouping)
