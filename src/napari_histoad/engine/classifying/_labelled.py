"""Reads tiles with a class from folders, tables and outlined slides."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._detector_view import DetectorView
from napari_histoad.engine._options import check_options
from napari_histoad.engine.training import TrainingSource, common_mpp, read_good_tiles
from napari_histoad.errors import RegionError, SettingsError, TooFewTilesError
from napari_histoad.jobs import Progress
from napari_histoad.regions import NORMAL_NAMES, UNREADABLE, read_annotations
from napari_histoad.tiles import TileFile, TileSet, list_tile_files, sample_tiles, tissue_mask, training_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.jobs import Job
    from napari_histoad.tiles import Stain

_MIN_PER_CLASS = 8
_IDC = re.compile(r"^(?P<patient>\d+)_idx\d+_x\d+_y\d+_class(?P<label>[01])$")
"""File names of the breast IDC data set, which hold the patient."""
_FIRST = NORMAL_NAMES | {"0", "negative"}


@dataclass(frozen=True)
class LabelledTiles:
    """Tiles, their groups, and their classes."""

    tiles: TileSet
    labels: NDArray[np.int64]  # (N,), index of the class
    classes: tuple[str, ...]
    mpp: float  # µm per tile pixel; 0.5 for tile files, which do not state it


def labelled_sources(paths: Sequence[Path], regions: Sequence[Path]) -> list[TrainingSource]:
    """Pair slides with their annotation files, in the same order; tile sets have none.

    Raises
    ------
    RegionError
        If the numbers of annotation files and slides differ.
    """
    sources = [TrainingSource(path) for path in paths]
    slides = [source for source in sources if not source.is_tiles]
    if len(slides) != len(regions):
        msg = f"{len(slides)} slides but {len(regions)} annotation files were given"
        raise RegionError(msg, "give one annotation file per slide, with a class on each outline: --regions FILE")
    files = iter(regions)
    return [source if source.is_tiles else _outlined(source, next(files)) for source in sources]


def _outlined(source: TrainingSource, file: Path) -> TrainingSource:
    """Return a slide with those outlines of a file that have a class."""
    found = read_annotations(file)
    named = [region for region in found.regions if region.name not in ("", UNREADABLE) and region.meaning != "ignored"]
    if not named:
        raise RegionError(f"no outline of {file.name} has a class", "set the classes of the outlines and export them again")
    plain = sum(not region.name for region in found.regions)
    notes = (*found.notes, f"{file.name}: {plain} outlines without a class are not used") if plain else found.notes
    return replace(source, regions=named, notes=notes)


def list_labelled_files(source: Path) -> list[TileFile]:
    """Return tile files with their classes.

    Supported are: a manifest.csv with the columns file, label and optionally class and group; a csv with the columns id and
    label next to a folder train (PatchCamelyon, Kaggle's edition); files named as in the breast IDC data set, grouped by
    patient; and a folder with one subfolder per class. Rows of a manifest without a class are left out.

    Raises
    ------
    SettingsError
        If fewer than two classes are found.
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
        if all(file.label is None for file in files):  # unknown class names: those of the outermost folders
            files = [replace(f, group="", class_name=p[0] if len(p) > 1 else "") for f, p in zip(files, parts, strict=True)]
        # Without information on which tiles belong together, each tile is its own group.
        files = [file if file.group else replace(file, group=file.name) for file in files]
    named = [file for file in files if file.class_name]
    if len({file.class_name for file in named}) < 2:
        msg = f"{source} has fewer than two classes"
        raise SettingsError(msg, "give one folder per class, or a manifest.csv with the columns file, class, group")
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
    """Read tiles of every class into memory; if there are more than ``max_tiles``, larger classes are reduced first.

    On slides the name of an outline is its class, and a tile has the class whose outlines cover at least half of it. Normal
    tissue is the first class; the others follow by label and name. Other parameters are those of `gather_job`. Raises
    `TooFewTilesError` if a class has fewer than 8 tiles, `SettingsError` if there are fewer than two classes.
    """
    check_options(seed=seed, max_tiles=max_tiles, mpp=mpp)
    rng = np.random.default_rng(seed)
    view = DetectorView(tile_px, common_mpp(sources, mpp), srgb, stain)
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
            view.normalise_files(tiles.images, files)
            sets.append(replace(tiles, sources=(source.path.name,)))
            names += [file.class_name for file in chosen]
            label_of |= {file.class_name: file.label for file in files if file.label is not None}
        else:
            found, notes = _of_slide(source, view, share, rng)
            for note in notes:
                yield Progress("Reading tiles", number, len(sources), "slides", path=str(source.path), note=note)
            sets += [tiles for _, tiles in found]
            names += [name for name, tiles in found for _ in range(len(tiles))]
    yield Progress("Reading tiles", len(sources), len(sources), "slides")
    classes = sorted(set(names), key=lambda name: (name.casefold() not in _FIRST, label_of.get(name, 0), name.casefold()))
    if len(classes) < 2:
        raise SettingsError(
            f"there is only one class: {', '.join(classes) or 'none'}",
            "give outlines of at least two classes",
        )
    counts = {name: names.count(name) for name in classes}
    few = min(classes, key=counts.__getitem__)
    if counts[few] < _MIN_PER_CLASS:
        msg = f"class {few} has only {counts[few]} tiles of {tile_px} px, at least {_MIN_PER_CLASS} are needed"
        raise TooFewTilesError(msg, "outline more of it, or use smaller tiles (--tile-px 128)")
    labels = np.array([classes.index(name) for name in names], np.int64)
    return LabelledTiles(TileSet.concatenate(sets), labels, tuple(classes), view.mpp)


def _balanced(names: NDArray[np.str_], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at most ``most`` random rows; larger classes are reduced first."""
    order = rng.permutation(len(names))
    rank = np.empty(len(names), np.int64)
    for name in np.unique(names):
        mine = order[names[order] == name]
        rank[mine] = np.arange(len(mine))
    return np.sort(np.argsort(rank, kind="stable")[:most])


def _of_slide(
    source: TrainingSource, view: DetectorView, share: int, rng: np.random.Generator
) -> tuple[list[tuple[str, TileSet]], list[str]]:
    """Return the tiles of each class of a slide, grouped by outline, and notes on the slide."""
    by_name: dict[str, list[int]] = {}
    regions = list(source.regions or ())
    for k, region in enumerate(regions):
        by_name.setdefault(region.name or "", []).append(k)
    by_name.pop("", None)
    result = []
    with source.open(srgb=view.srgb) as slide:
        tissue = tissue_mask(slide, source.tissue_from, regions)
        seen = view.of_slide(slide, view.measure(slide, tissue))
        for name, rows in by_name.items():
            mine = [regions[k] for k in rows]
            grid = training_grid(slide, tissue, tile_px=view.tile_px, mpp=view.mpp, regions=mine)
            if len(grid):
                result.append((name, sample_tiles(seen, grid, -(-share // len(by_name)), rng, mine)))
        return result, [f"{source.path.name}: {note}" for note in slide.notes]
