"""Tiles with a class: from folders, tables and outlined slides."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._options import check_options
from napari_histoad.engine.training._gather import TrainingSource, common_mpp, stain_of_files, stained
from napari_histoad.engine.training._tile_files import read_good_tiles
from napari_histoad.errors import RegionError, SettingsError, TooFewTilesError
from napari_histoad.jobs import Progress
from napari_histoad.regions import NORMAL_NAMES, UNREADABLE, read_annotations
from napari_histoad.tiles import TileFile, TileSet, list_tile_files, sample_tiles, tissue_mask, training_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.jobs import Job
    from napari_histoad.tiles import Stain

__all__ = ["LabelledTiles", "gather_labelled_job", "labelled_sources", "list_labelled_files"]

_LEAST_PER_CLASS = 8
_IDC = re.compile(r"^(?P<patient>\d+)_idx\d+_x\d+_y\d+_class(?P<label>[01])$")
"""Names of the breast IDC set: the patient is in them."""
_FIRST = NORMAL_NAMES | {"0", "negative"}


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
    return [source if source.is_tiles else _outlined(source, next(files)) for source in sources]


def _outlined(source: TrainingSource, file: Path) -> TrainingSource:
    """Return a slide with the outlines of a file that have a class."""
    found = read_annotations(file)
    named = [region for region in found.regions if region.name not in ("", UNREADABLE) and region.meaning != "ignored"]
    if not named:
        raise RegionError(f"no outline of {file.name} has a class", "class the outlines and export them again")
    plain = sum(not region.name for region in found.regions)
    notes = (*found.notes, f"{file.name}: {plain} outlines without a class are not learnt from") if plain else found.notes
    return replace(source, regions=named, notes=notes)


def list_labelled_files(source: Path) -> list[TileFile]:
    """Return tiles that are files, each with its class.

    Known are: a manifest.csv with columns file, label and perhaps class and group; a csv with columns id and label beside
    a folder train (PatchCamelyon, Kaggle's edition); files named as in the breast IDC set, grouped by patient; and a folder
    with a subfolder per class. Lines of a manifest without a class are left out.

    Raises
    ------
    SettingsError
        If nothing says what class the tiles are of.
    """
    if source.suffix.lower() == ".csv":
        files = list_tile_files(source)
    else:
        files = list_tile_files(source)
        matches = [_IDC.match(file.path.stem) for file in files]
        if all(matches):
            found = [(file, m) for file, m in zip(files, matches, strict=True) if m is not None]
            return [replace(file, group=m["patient"], class_name=m["label"]) for file, m in found]
        parts = [file.path.relative_to(source).parts for file in files]
        if all(file.label is None for file in files):  # names of classes that are not known: the outermost folders
            files = [replace(f, group="", class_name=p[0] if len(p) > 1 else "") for f, p in zip(files, parts, strict=True)]
        # Where nothing says which tiles belong together, each stands for itself.
        files = [file if file.group else replace(file, group=file.name) for file in files]
    named = [file for file in files if file.class_name]
    if len({file.class_name for file in named}) < 2:
        msg = f"{source} names fewer than two classes"
        raise SettingsError(msg, "give a folder per class, or a manifest.csv with columns file, class, group")
    return named


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
    check_options(seed=seed, max_tiles=max_tiles, mpp=mpp)
    rng = np.random.default_rng(seed)
    wanted = common_mpp(sources, mpp)
    sets: list[TileSet] = []
    names: list[str] = []
    label_of: dict[str, int] = {}
    share = -(-max_tiles // len(sources))
    for number, source in enumerate(sources):
        yield Progress("Reading tiles", number, len(sources), "slides", path=str(source.path))
        for note in source.notes:
            yield Progress("Reading tiles", number, len(sources), "slides", path=str(source.path), note=note)
        if source.is_tiles:
            files = list_labelled_files(source.path)
            chosen = [files[i] for i in _balanced(np.array([file.class_name for file in files]), share, rng)]
            tiles, chosen, notes = read_good_tiles(chosen, tile_px, source.path.name)
            for note in notes:
                yield Progress("Reading tiles", number, len(sources), "slides", path=str(source.path), note=note)
            if stain is not None:
                stain_of_files(files, stain.method, tile_px).to(stain)(tiles.images)
            sets.append(replace(tiles, sources=(source.path.name,)))
            names += [file.class_name for file in chosen]
            label_of |= {file.class_name: file.label for file in files if file.label is not None}
        else:
            found, notes = _of_slide(source, tile_px, wanted, share, rng, srgb=srgb, stain=stain)
            for note in notes:
                yield Progress("Reading tiles", number, len(sources), "slides", path=str(source.path), note=note)
            sets += [tiles for _, tiles in found]
            names += [name for name, tiles in found for _ in range(len(tiles))]
    yield Progress("Reading tiles", len(sources), len(sources), "slides")
    classes = sorted(set(names), key=lambda name: (name.casefold() not in _FIRST, label_of.get(name, 0), name.casefold()))
    if len(classes) < 2:
        raise SettingsError(f"there is only one class: {', '.join(classes) or 'none'}", "outline and name two classes or more")
    counts = {name: names.count(name) for name in classes}
    few = min(classes, key=counts.__getitem__)
    if counts[few] < _LEAST_PER_CLASS:
        msg = f"class {few} has only {counts[few]} tiles of {tile_px} px, {_LEAST_PER_CLASS} are due"
        raise TooFewTilesError(msg, "outline more of it, or use smaller tiles (--tile-px 128)")
    labels = np.array([classes.index(name) for name in names], np.int64)
    return LabelledTiles(TileSet.concatenate(sets), labels, tuple(classes), wanted)


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
) -> tuple[list[tuple[str, TileSet]], list[str]]:
    """Return the tiles of each class of a slide, which share groups by outline, and what is to be noted of the slide."""
    by_name: dict[str, list[int]] = {}
    regions = list(source.regions or ())
    for k, region in enumerate(regions):
        by_name.setdefault(region.name or "", []).append(k)
    by_name.pop("", None)
    result = []
    with source.open(srgb=srgb) as slide:
        tissue = tissue_mask(slide, source.tissue_from, regions)
        seen = stained(slide, tissue, stain, tile_px, mpp)
        for name, rows in by_name.items():
            mine = [regions[k] for k in rows]
            grid = training_grid(slide, tissue, tile_px=tile_px, mpp=mpp, regions=mine)
            if len(grid):
                result.append((name, sample_tiles(seen, grid, -(-share // len(by_name)), rng, mine)))
        return result, [f"{source.path.name}: {note}" for note in slide.notes]
