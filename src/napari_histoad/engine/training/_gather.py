"""From slides and outlines, or tile files, to normal tiles in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histoad.engine.training._tile_files import grouped_tiles, read_good_tiles
from napari_histoad.errors import RegionError, TooFewTilesError
from napari_histoad.jobs import Progress
from napari_histoad.regions import Annotations, Region, normal_regions, outside_note, read_annotations
from napari_histoad.slide import RecolouredSlide, is_slide, is_url, locate, open_slide
from napari_histoad.tiles import (
    Stain,
    TileSet,
    check_tissue_from,
    list_normal_files,
    read_tile_files,
    sample_tiles,
    tissue_mask,
    training_grid,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histoad.detectors import Detector
    from napari_histoad.jobs import Job
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import StainMethod, TileFile, TissueMask

__all__ = [
    "MAX_TILES",
    "MIN_TILES",
    "TrainingSource",
    "common_mpp",
    "gather_job",
    "stain_job",
    "stain_of",
    "stain_of_files",
    "stained",
    "training_sources",
]

MIN_TILES = 48
MAX_TILES = 2000
_DEFAULT_MPP = 0.5
# With a quarter held out, two groups at least calibrate.
_ENOUGH_GROUPS = 8
_FILES_FOR_STAIN = 32
_TISSUE = ("all-tissue", "mixed-tissue")
"""In the place of outlines: all tissue is normal; or it may hold lesions."""


@dataclass(frozen=True)
class TrainingSource:
    """One slide, or one set of tile files, to learn normal from.

    Attributes
    ----------
    path : Path
        A slide, a folder of tiles, or a manifest.csv (of which only label 0 is learnt from).
    regions : sequence of Region or None
        Normal tissue; None takes all tissue.
    mpp : float or None
        µm per level-0 pixel, also where the slide states another value.
    mixed : bool
        Its tissue may hold lesions: what is rare in it is neither learnt from nor calibrated on. Otherwise all of it is
        normal and counts, however rare.
    slide_mpp : float or None
        µm per level-0 pixel where the slide states none.
    normal_classes : tuple of str
        Of tile files: the classes that are normal, in the place of the known names, see `list_normal_files`.
    notes : tuple of str
        What was assumed or left out when the source was chosen, a sentence each; shown when it is read.
    tissue_from : str
        ``"found"`` on the slide, or the ``"regions"`` themselves, for stains where it is not found.
    """

    path: Path
    regions: Sequence[Region] | None = None
    mpp: float | None = None
    mixed: bool = False
    slide_mpp: float | None = None
    normal_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tissue_from: str = "found"

    def __post_init__(self) -> None:
        if is_url(self.path):
            object.__setattr__(self, "path", locate(self.path))  # shown from here on without signatures and passwords

    def open(self, *, srgb: bool = False) -> Slide:
        """Open the slide."""
        return open_slide(self.path, self.mpp, slide_mpp=self.slide_mpp, srgb=srgb)

    @cached_property
    def is_tiles(self) -> bool:
        """Whether this is a set of tile files rather than a slide."""
        return not is_slide(self.path)


def gather_job(
    sources: Sequence[TrainingSource],
    tile_px: int,
    mpp: float | None,
    *,
    max_tiles: int = MAX_TILES,
    srgb: bool = False,
    stain: Stain | None = None,
    seed: int = 0,
) -> Job[tuple[TileSet, float]]:
    """Read the normal tiles of all sources into memory; the result is (tiles, their mpp).

    Tiles are grouped by slide if there are 8 or more, else by outline if there are 8 or more, else by spatial block.
    Without ``mpp`` tiles are read at 0.5 µm per pixel, or at the coarsest slide's own if that is coarser. With ``stain``
    every source is given these stains.

    Raises
    ------
    TooFewTilesError
        If there are fewer than 48 tiles in all.
    RegionError
        If the outlines of a slide hold no tissue.
    """
    rng = np.random.default_rng(seed)
    wanted = common_mpp(sources, mpp)
    share, unit = math.ceil(max_tiles / len(sources)), _held_together(sources)
    sets = []
    for number, source in enumerate(sources):
        yield Progress("Reading normal tiles", number, len(sources), "slides", path=str(source.path))
        for note in source.notes:
            yield Progress("Reading normal tiles", number, len(sources), "slides", path=str(source.path), note=note)
        if source.is_tiles:
            chosen = list_normal_files(source.path, source.normal_classes)
            picked = [chosen.files[i] for i in np.sort(rng.permutation(len(chosen.files))[:share])]
            tiles, _, notes = read_good_tiles(picked, tile_px, source.path.name)
            if stain is not None:
                stain_of_files(chosen.files, stain.method, tile_px).to(stain)(tiles.images)
            tiles, grouping = grouped_tiles(tiles, chosen, source.path.name, alone=len(sources) == 1)
            for note in (*chosen.notes, *notes, *([grouping] if grouping else [])):
                yield Progress("Reading normal tiles", number, len(sources), "slides", path=str(source.path), note=note)
            sets.append(replace(tiles, sources=(source.path.name,)))
        else:
            sets.append((yield from _slide_job(source, tile_px, wanted, share, unit, rng, srgb=srgb, stain=stain)))
    tiles = TileSet.concatenate(sets)
    if len(tiles) < MIN_TILES:
        msg = f"only {len(tiles)} normal tiles of {tile_px} px were found, {MIN_TILES} are due"
        raise TooFewTilesError(msg, "outline more normal tissue, add slides, or use smaller tiles (--tile-px 128)")
    yield Progress("Reading normal tiles", len(sources), len(sources), "slides")
    return tiles, wanted


def stain_job(
    sources: Sequence[TrainingSource], method: StainMethod, tile_px: int, mpp: float | None, *, srgb: bool = False
) -> Job[Stain]:
    """Estimate the stains of each source, a slide's on all its tissue as for a map, and return their median.

    Raises
    ------
    SettingsError
        If a source holds too little stained tissue.
    """
    wanted, stains = common_mpp(sources, mpp), []
    for number, source in enumerate(sources):
        yield Progress("Looking at stains", number, len(sources), "slides", path=str(source.path))
        if source.is_tiles:
            stains.append(stain_of_files(list_normal_files(source.path, source.normal_classes).files, method, tile_px))
        else:
            with source.open(srgb=srgb) as slide:
                stains.append(
                    Stain.of_slide(
                        slide, tissue_mask(slide, source.tissue_from, source.regions), method, tile_px=tile_px, mpp=wanted
                    )
                )
    yield Progress("Looking at stains", len(sources), len(sources), "slides")
    return Stain.between(stains)


def stained(slide: Slide, tissue: TissueMask, stain: Stain | None, tile_px: int, mpp: float) -> Slide:
    """Return the slide with the stains ``stain``, or as it is."""
    if stain is None:
        return slide
    own = Stain.of_slide(slide, tissue, stain.method, tile_px=tile_px, mpp=mpp)
    return RecolouredSlide(slide, own.to(stain))


def stain_of(detector: Detector) -> Stain | None:
    """Return the stains that a detector has every slide given; None if it takes them as they are."""
    method = detector.settings.stain
    return None if method == "none" else Stain(method, detector.stain_target)


def stain_of_files(files: Sequence[TileFile], method: StainMethod, tile_px: int) -> Stain:
    """Estimate the stains that tiles which are files have in common, from at most 32 of them."""
    few = files[:: -(-len(files) // _FILES_FOR_STAIN)]
    return Stain.of_pixels(read_tile_files(few, tile_px, errors={}).images, method, f"{few[0].path.parent.name}/")


def common_mpp(sources: Sequence[TrainingSource], mpp: float | None) -> float:
    """Return the mpp that was asked for, else 0.5 or the coarsest slide's own."""
    if mpp is not None:
        return mpp
    wanted = _DEFAULT_MPP
    for source in sources:
        if not source.is_tiles:
            with source.open() as slide:
                wanted = max(wanted, slide.require_mpp())
    return wanted


def _held_together(sources: Sequence[TrainingSource]) -> str:
    """Return what is never split between training and calibration: the largest unit of which there are enough."""
    if len(sources) >= _ENOUGH_GROUPS:
        return "slide"
    regions = sum(len(source.regions or ()) for source in sources)
    return "region" if regions >= _ENOUGH_GROUPS and all(source.regions is not None for source in sources) else "block"


def _slide_job(
    source: TrainingSource,
    tile_px: int,
    mpp: float,
    share: int,
    unit: str,
    rng: np.random.Generator,
    *,
    srgb: bool,
    stain: Stain | None,
) -> Job[TileSet]:
    with source.open(srgb=srgb) as slide:
        outside = outside_note(source.regions or (), slide.shape, source.path.name)
        for note in (*(f"{source.path.name}: {note}" for note in slide.notes), *([outside] if outside else [])):
            yield Progress("Reading normal tiles", unit="slides", path=str(source.path), note=note)
        tissue = tissue_mask(slide, source.tissue_from, source.regions)
        grid = training_grid(slide, tissue, tile_px=tile_px, mpp=mpp, regions=source.regions)
        if source.regions is not None and not len(grid):
            side_um = tile_px * mpp
            msg = f"the normal regions of {source.path.name} hold no tile of {side_um:.0f} µm of tissue"
            raise RegionError(msg, "outline larger areas, on the tissue; check that the outlines belong to this slide")
        seen = stained(slide, tissue, stain, tile_px, mpp)
        tiles = sample_tiles(seen, grid, share, rng, source.regions if unit == "region" else None)
    return replace(tiles, groups=np.zeros_like(tiles.groups), grouping="slides") if unit == "slide" else tiles


def training_sources(
    paths: Sequence[Path],
    normal: Any,
    slide_mpp: float | None = None,
    tissue_from: str = "found",
    override_mpp: float | None = None,
    normal_class: str | Sequence[str] | None = None,
) -> list[TrainingSource]:
    """Pair slides with their outlines.

    Parameters
    ----------
    paths : sequence of Path
    normal : path-like, sequence of path-like, sequence of Region, or None
        A file of outlines or a list of regions per slide, of which those classed normal are taken, or all where none has a
        class. In the place of one, or of all, ``all-tissue`` (all tissue of the slide is normal, the default) or
        ``mixed-tissue`` (it may hold lesions).
    slide_mpp : float, optional
        µm per level-0 pixel of slides that state none.
    tissue_from : str
        ``"found"`` on the slides, or the outlined ``"regions"``.
    override_mpp : float, optional
        µm per level-0 pixel, whatever the slides state.
    normal_class : str or sequence of str, optional
        Of tile files: the class or classes that are normal; ``all-tiles`` if all are.

    Raises
    ------
    SettingsError
        If the outlines shall be the tissue and a slide has none.
    RegionError
        If there are not as many annotation files as slides, one is given for several, or a slide has no normal outline.
    """
    classes = () if normal_class is None else (normal_class,) if isinstance(normal_class, str) else tuple(normal_class)
    given = ["all-tissue"] if normal is None else [normal] if isinstance(normal, str | PathLike) else list(normal)
    if len(given) == 1 and given[0] in _TISSUE:
        given *= len(paths)
    if given and all(isinstance(part, Region) for part in given):
        given = [given]  # the outlines of one slide
    if len(given) != len(paths):
        what = "annotation files" if all(isinstance(part, str | PathLike) for part in given) else "sets of outlines"
        msg = f"{len(paths)} slides but {len(given)} {what} were given"
        remedy = "give one annotation file per slide, in the same order, or all-tissue, or mixed-tissue if it may hold lesions"
        raise RegionError(msg, remedy)
    files = [str(Path(part).resolve()) for part in given if isinstance(part, str | PathLike) and part not in _TISSUE]
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise RegionError(
            f"{Path(twice).name} is given for several slides", "outlines belong to one slide: give each its own file"
        )
    for part in given:
        check_tissue_from(tissue_from, given=part not in _TISSUE)
    return [
        replace(_source(path, part), tissue_from=tissue_from, mpp=override_mpp, slide_mpp=slide_mpp, normal_classes=classes)
        for path, part in zip(paths, given, strict=True)
    ]


def _source(path: Path, given: Any) -> TrainingSource:
    """Return a slide with its outlines: a file, regions, ``all-tissue`` or ``mixed-tissue``."""
    if isinstance(given, str) and given in _TISSUE:
        return TrainingSource(path, None, mixed=given == "mixed-tissue")
    if isinstance(given, str | PathLike):
        found, where = read_annotations(given), Path(given).name
    else:
        found, where = Annotations.of(given), f"the outlines of {path.name}"
    chosen, assumed = normal_regions(found, where)
    return TrainingSource(path, chosen, notes=(*found.notes, *assumed))
