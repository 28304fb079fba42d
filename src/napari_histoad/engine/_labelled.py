"""Tiles with a class: from folders, tables and outlined slides."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._gather import TrainingSource, common_mpp, stain_of_files, stained
from napari_histoad.errors import RegionError, SettingsError, TooFewTilesError
from napari_histoad.jobs import Progress
from napari_histoad.regions import NORMAL_NAMES, read_regions
from napari_histoad.slide import open_slide
from napari_histoad.tiles import TileFile, TileSet, find_tissue, list_tile_files, read_tile_files, sample_tiles, training_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.jobs import Job
    from napari_histoad.tiles import Stain

__all__ = ["LabelledTiles", "gather_labelled_job", "labelled_sources", "list_labelled_files"]

_LEAST_PER_CLASS = 8
_IDC = re.compile(r"^(?P<patient>\d+)_idx\d+_x\d+_y\d+_class(?P<label>[01])$")
"""Names of the breast IDC set: the patient is in them."""
_FIRST = NORMAL_NAMES | {"0"}
_PCAM = {"id", "label"}
"""Columns of train_labels.csv of the Kaggle edition of PatchCamelyon; its tiles lie in train/."""


@dataclass(frozen=True)
class LabelledTiles:
    """Tiles, their groups, and their classes.

    Attributes
    ----------
    tiles : TileSet
    labels : (N,) int64
        Index of the class.
    classes : tuple of str
    mpp : float
        µm per tile pixel; 0.5 where files do not say.
    """

    tiles: TileSet
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mpp: float


def labelled_sources(paths: Sequence[Path], regions: Sequence[Path]) -> list[TrainingSource]:
    """Pair slides with their outlines, in the same order; tile sets have none.

    Raises
    ------
    RegionError
        If there are not as many annotation files as slides.
    """
    sources = [TrainingSource(path) for path in paths]
    slides = [source for source in sources if not source.is_tiles]
    if len(slides) != len(regions):
        msg = f"{len(slides)} slides but {len(regions)} annotation files were given"
        raise RegionError(msg, "give one file of outlines, each named by its class, per slide: --regions FILE")
    files = iter(regions)
    return [source if source.is_tiles else replace(source, regions=read_regions(next(files))) for source in sources]


def list_labelled_files(source: Path) -> tuple[list[TileFile], list[str]]:
    """Return tiles that are files and the name of each one's class.

    Known are: a manifest.csv with columns file, label and perhaps class and group; a csv with columns id and label beside
    a folder train (PatchCamelyon, Kaggle's edition); files named as in the breast IDC set, grouped by patient; and a folder
    with a subfolder per class.

    Raises
    ------
    SettingsError
        If nothing says what class the tiles are of.
    """
    if source.suffix.lower() == ".csv":
        names = _read_classes(source)
        if names is None:
            return _pcam(source)
        files = list_tile_files(source)
        return _only_named(source, files, names)
    files = list_tile_files(source)
    matches = [_IDC.match(file.path.stem) for file in files]
    if all(matches):
        found = [match for match in matches if match is not None]
        return [replace(f, group=m["patient"]) for f, m in zip(files, found, strict=True)], [m["label"] for m in found]
    # Nothing says which tiles belong together, so each stands for itself.
    parts = [file.path.relative_to(source).parts for file in files]
    return _only_named(source, [replace(f, group=f.name) for f in files], [p[0] if len(p) > 1 else "" for p in parts])


def _read_classes(source: Path) -> list[str] | None:
    """Return the class of each line of a manifest, or None for PatchCamelyon's table."""
    try:
        with source.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise SettingsError(f"{source} cannot be read as a table ({err})", "give a UTF-8 csv file") from err
    if rows and rows[0].keys() >= _PCAM and "file" not in rows[0]:
        return None
    return [(row.get("class") or row.get("label") or "").strip() for row in rows]


def _pcam(source: Path) -> tuple[list[TileFile], list[str]]:
    folder = source.parent / "train"
    with source.open(newline="", encoding="utf-8-sig") as handle:
        rows = list(csv.DictReader(handle))
    files = [TileFile(folder / f"{row['id']}.tif", f"{row['id']}.tif", int(row["label"]), row["id"]) for row in rows]
    return _only_named(source, files, [row["label"] for row in rows])


def _only_named(source: Path, files: list[TileFile], names: list[str]) -> tuple[list[TileFile], list[str]]:
    kept = [(file, name) for file, name in zip(files, names, strict=True) if name]
    if len({name for _, name in kept}) < 2:
        msg = f"{source} names fewer than two classes"
        raise SettingsError(msg, "give a folder per class, or a manifest.csv with columns file, class, group")
    return [file for file, _ in kept], [name for _, name in kept]


def gather_labelled_job(
    sources: Sequence[TrainingSource],
    tile_px: int,
    mpp: float | None,
    *,
    max_tiles: int = 4000,
    srgb: bool = False,
    stain: Stain | None = None,
    seed: int = 0,
) -> Job[LabelledTiles]:
    """Read tiles of every class into memory, at most so many, the rarer classes first in full; with ``stain``, in these.

    On slides the class of an outline is its name; a tile is of the class that covers half of it or more. Normal tissue is
    the first class, the others follow by label and name.

    Raises
    ------
    TooFewTilesError
        If a class has fewer than 8 tiles.
    SettingsError
        If there are fewer than two classes.
    """
    rng = np.random.default_rng(seed)
    wanted = common_mpp(sources, mpp)
    sets: list[TileSet] = []
    names: list[str] = []
    label_of: dict[str, int] = {}
    share = -(-max_tiles // len(sources))
    for number, source in enumerate(sources):
        yield Progress("Reading tiles", number, len(sources), "slides", path=str(source.path))
        if source.is_tiles:
            files, classes = list_labelled_files(source.path)
            rows = _balanced(np.array(classes), share, rng)
            tiles = read_tile_files([files[i] for i in rows], tile_px)
            if stain is not None:
                stain_of_files(files, stain.method, tile_px).to(stain)(tiles.images)
            sets.append(replace(tiles, sources=(source.path.name,)))
            names += [classes[i] for i in rows]
            label_of |= {name: file.label for file, name in zip(files, classes, strict=True) if file.label is not None}
        else:
            for name, tiles in _of_slide(source, tile_px, wanted, share, rng, srgb=srgb, stain=stain):
                sets.append(tiles)
                names += [name] * len(tiles)
    yield Progress("Reading tiles", len(sources), len(sources), "slides")
    found = sorted(set(names), key=lambda name: (name.casefold() not in _FIRST, label_of.get(name, 0), name.casefold()))
    if len(found) < 2:
        raise SettingsError(f"there is only one class: {', '.join(found) or 'none'}", "outline and name two classes or more")
    counts = {name: names.count(name) for name in found}
    few = min(found, key=counts.__getitem__)
    if counts[few] < _LEAST_PER_CLASS:
        msg = f"class {few} has only {counts[few]} tiles of {tile_px} px, {_LEAST_PER_CLASS} are due"
        raise TooFewTilesError(msg, "outline more of it, or use smaller tiles (--tile-px 128)")
    labels = np.array([found.index(name) for name in names], np.int64)
    return LabelledTiles(TileSet.concatenate(sets), labels, tuple(found), wanted)


def _balanced(names: NDArray[np.str_], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at most so many rows, at random; of the larger classes more are left out."""
    order = rng.permutation(len(names))
    rank = np.empty(len(names), np.int64)
    for name in np.unique(names):
        mine = order[names[order] == name]
        rank[mine] = np.arange(len(mine))
    return np.sort(np.argsort(rank, kind="stable")[:most])


def _of_slide(
    source: TrainingSource,
    tile_px: int,
    mpp: float,
    share: int,
    rng: np.random.Generator,
    *,
    srgb: bool,
    stain: Stain | None,
) -> list[tuple[str, TileSet]]:
    """Return the tiles of each class of a slide; those of one slide share groups by outline."""
    by_name: dict[str, list[int]] = {}
    regions = list(source.regions or ())
    for k, region in enumerate(regions):
        by_name.setdefault(region.name or "", []).append(k)
    by_name.pop("", None)
    result = []
    with open_slide(source.path, source.mpp, srgb=srgb) as slide:
        tissue = find_tissue(slide)
        seen = stained(slide, tissue, stain, tile_px, mpp)
        for name, rows in by_name.items():
            mine = [regions[k] for k in rows]
            grid = training_grid(slide, tissue, tile_px=tile_px, mpp=mpp, regions=mine)
            if len(grid):
                result.append((name, sample_tiles(seen, grid, -(-share // len(by_name)), rng, mine)))
    return result
