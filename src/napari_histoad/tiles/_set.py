"""Training tiles in memory, with the group that each comes from."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from napari_histoad.errors import SettingsError, TooFewTilesError
from napari_histoad.tiles._loader import TileLoader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histoad.slide import Slide
    from napari_histoad.tiles._grid import TileGrid

__all__ = ["TileFile", "TileSet", "list_tile_files", "read_tile_files", "sample_tiles"]

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
_BLOCKS_PER_AXIS = 16


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
    """

    images: NDArray[np.uint8]
    groups: NDArray[np.int64]
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, keep: NDArray[np.int64] | NDArray[np.bool_]) -> TileSet:
        """Return the tiles that ``keep`` (mask or indices) names."""
        return TileSet(self.images[keep], self.groups[keep], self.sources)

    @staticmethod
    def concatenate(sets: Sequence[TileSet]) -> TileSet:
        """Return all tiles of several sets; groups of different sets stay apart."""
        groups, first = [], 0
        for part in sets:
            groups.append(part.groups + first)
            first += int(part.groups.max(initial=-1)) + 1
        sources = tuple(s for part in sets for s in part.sources)
        return TileSet(np.concatenate([part.images for part in sets]), np.concatenate(groups), sources)

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
        ids, sizes = np.unique(self.groups, return_counts=True)
        if len(ids) < 2:
            msg = f"the {len(self)} normal tiles all come from one place"
            raise TooFewTilesError(msg, "outline normal tissue in a second place, or a larger area")
        order = rng.permutation(len(ids))
        taken = np.cumsum(sizes[order])
        # At least one group on each side; otherwise the number of groups that comes closest to the wanted share.
        n = int(np.argmin(np.abs(taken[:-1] - held_out * len(self)))) + 1
        mask = np.isin(self.groups, ids[order[:n]])
        return np.flatnonzero(~mask), np.flatnonzero(mask)


def sample_tiles(slide: Slide, grid: TileGrid, max_tiles: int, rng: np.random.Generator) -> TileSet:
    """Read at most ``max_tiles`` tiles of a grid, chosen at random, into memory.

    Groups are spatial blocks, at most 16 x 16 over the extent of the grid. Of overlapping tiles, those that straddle a
    block's border are left out: tiles of different groups share no pixel, so what is held out was never seen.
    """
    blocks, whole = _blocks(grid)
    index = np.flatnonzero(whole)
    if len(index) > max_tiles:
        index = np.sort(rng.choice(index, max_tiles, replace=False))
    images = np.empty((len(index), grid.tile_px, grid.tile_px, 3), np.uint8)
    good = np.ones(len(index), bool)
    done = 0
    for batch in TileLoader(slide, grid, index=index):
        n = len(batch.index)
        images[done : done + n] = batch.images
        good[done : done + n] = ~batch.failed
        done += n
    groups = np.unique(blocks[index], return_inverse=True)[1].astype(np.int64)
    return TileSet(images[good], groups[good], (slide.path.name,))


def _blocks(grid: TileGrid) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the spatial block of each tile, and whether the tile may be used."""
    corner = grid.origins - grid.origins.min(axis=0, initial=0) if len(grid) else grid.origins
    side = max(float(corner.max(initial=0)) / _BLOCKS_PER_AXIS, 2 * grid.tile_l0)
    first, last = (corner // side).astype(np.int64), ((corner + grid.tile_l0 - 1) // side).astype(np.int64)
    apart = grid.stride_px == grid.tile_px
    whole = np.ones(len(grid), bool) if apart else (first == last).all(axis=1)
    return first[:, 0] * 4096 + first[:, 1], whole


@dataclass(frozen=True)
class TileFile:
    """One tile that is a file, as listed by a manifest or found in a folder."""

    path: Path
    name: str
    label: int | None
    group: str


def list_tile_files(source: Path) -> list[TileFile]:
    """Return the tiles of a folder or of a manifest.csv with columns file, label, group.

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
        tiles.append(TileFile(path, row["file"], int(label) if label else None, row.get("group") or row["file"]))
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
    return TileSet(images, groups)
