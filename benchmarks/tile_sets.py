"""The labelled sets of tiles that benchmarks use, and how they are split."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from grouped import choose_groups

from napari_histoad.tiles import list_tile_files, read_tile_files

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["SETS", "TileTable", "read_images", "read_set"]


@dataclass(frozen=True)
class Source:
    """Where a set lies and how it is read.

    Attributes
    ----------
    folder : str
    side : int
        Side to which its files are resized, in pixels.
    cut : int
        Each file is cut into cut x cut tiles.
    strips : int
        Number of neighbours along the slide that form a group of normal tiles; 0 for the listed groups.
    counted : bool
        Whether it counts in means over sets.
    """

    folder: str
    side: int
    cut: int = 1
    strips: int = 0
    counted: bool = True


SETS = {
    "oral": Source("oral_oscc", 224),
    "colon": Source("lc25000_colon", 224),
    "malaria": Source("malaria_cells", 64),
    "glas": Source("glas_colon", 256),
    "breast": Source("ucsb_breast", 256),
    "hpylori": Source("hpylori_ihc", 256),
    # All 22 normal files are from one slide: a check and no benchmark. Quarters, since a detector needs 20 normal tiles.
    "camelyon16": Source("camelyon16_dldp", 256, cut=2, strips=4, counted=False),
}
_COLUMNS = ("class", "magnification", "verified")


@dataclass(frozen=True)
class TileTable:
    """The tiles of a set without their pixels.

    Attributes
    ----------
    name : str
    files : (N,) str
    labels : (N,) bool
        Whether a tile is anomalous.
    groups : (N,) str
    columns : dict of str to (N,) str
        Other columns of the manifest: class, magnification, verified; and slide, where groups are strips of one.
    """

    name: str
    files: NDArray[np.str_]
    labels: NDArray[np.bool_]
    groups: NDArray[np.str_]
    columns: dict[str, NDArray[np.str_]]

    def learnt(self, seed: int) -> NDArray[np.bool_]:
        """Return which normal tiles to train on, (N,) bool: those of 60% of the normal groups."""
        return ~self.labels & np.isin(self.groups, choose_groups(self.groups[~self.labels], seed))

    def new_to(self, learnt: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the tiles of groups, such as patients, of which no tile was trained on, (N,) bool."""
        return ~np.isin(self.groups, self.groups[learnt])


@lru_cache
def read_set(data: Path, name: str) -> TileTable:
    """Return the tiles that a set's manifest lists."""
    source = SETS[name]
    path = data / "patches" / source.folder / "manifest.csv"
    tiles = list_tile_files(path)
    with path.open(newline="", encoding="utf-8") as handle:
        listed = {row["file"]: row for row in csv.DictReader(handle)}
    labels = np.array([tile.label != 0 for tile in tiles])
    groups = np.array([tile.group for tile in tiles])
    columns = {c: np.array([listed[t.name].get(c, "") for t in tiles]) for c in _COLUMNS}
    if source.strips:
        columns["slide"] = groups
        places = [int(re.findall(r"\d+", tile.path.stem)[-2]) for tile in tiles]
        order = np.argsort(np.where(labels, np.inf, places), kind="stable")[: (~labels).sum()]
        groups = groups.astype(object)
        groups[order] = [f"strip {k // source.strips}" for k in range(len(order))]
    files = np.array([tile.name for tile in tiles])
    repeated = source.cut**2
    return TileTable(
        name,
        files.repeat(repeated),
        labels.repeat(repeated),
        groups.astype(np.str_).repeat(repeated),
        {c: v.repeat(repeated) for c, v in columns.items()},
    )


@lru_cache(maxsize=2)
def read_images(data: Path, name: str, most_px: int) -> NDArray[np.uint8]:
    """Return the pixels of a set, (N, H, W, 3) uint8, with a side of at most ``most_px``."""
    source = SETS[name]
    side = min(source.side // source.cut, most_px) * source.cut
    images = read_tile_files(list_tile_files(data / "patches" / source.folder / "manifest.csv"), side).images
    n, c, s = len(images), source.cut, side // source.cut
    return images.reshape(n, c, s, c, s, 3).swapaxes(2, 3).reshape(n * c * c, s, s, 3)
