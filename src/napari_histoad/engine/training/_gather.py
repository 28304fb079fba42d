"""Reads the normal tiles of slides and tile files into memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._detector_view import DetectorView, stain_of_files
from napari_histoad.engine.training._edges import with_edges
from napari_histoad.engine.training._sources import common_mpp
from napari_histoad.engine.training._tile_files import grouped_tiles, read_good_tiles
from napari_histoad.errors import RegionError, TooFewTilesError
from napari_histoad.jobs import Progress
from napari_histoad.regions import outside_note
from napari_histoad.tiles import Stain, TileSet, list_normal_files, sample_tiles, tissue_mask, training_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histoad.engine.training._sources import TrainingSource
    from napari_histoad.jobs import Job
    from napari_histoad.tiles import StainMethod

MAX_TILES = 2000
_MIN_TILES = 48
_MIN_GROUPS = 8
"""With a quarter held out, at least two groups calibrate."""


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
    """Read the normal tiles of all sources into memory and return (tiles, mpp).

    Tiles are grouped by slide if there are at least 8 slides, else by outline if there are at least 8, else by spatial block.
    Each source contributes at most its equal share of ``max_tiles``, drawn with ``seed``. If few tiles of outlines show an edge
    of the tissue, some are given one, see `with_edges`. Without ``mpp``, in µm per tile pixel, it is 0.5, or that of the coarsest
    slide if it is coarser. ``srgb`` and ``stain`` are as in `DetectorView`. Raises `TooFewTilesError` for fewer than 48 tiles,
    `RegionError` if no tile of tissue fits into the outlines of a slide.
    """
    rng = np.random.default_rng(seed)
    view = DetectorView(tile_px, common_mpp(sources, mpp), srgb, stain)
    share, unit = math.ceil(max_tiles / len(sources)), _grouping_unit(sources)
    sets = []
    for number, source in enumerate(sources):
        yield Progress("Reading normal tiles", number, len(sources), "slides", path=str(source.path))
        for note in source.notes:
            yield Progress("Reading normal tiles", number, len(sources), "slides", path=str(source.path), note=note)
        if source.is_tiles:
            chosen = list_normal_files(source.path, source.normal_classes)
            picked = [chosen.files[i] for i in np.sort(rng.permutation(len(chosen.files))[:share])]
            tiles, _, notes = read_good_tiles(picked, tile_px, source.path.name)
            view.normalise_files(tiles.images, chosen.files)
            tiles, grouping = grouped_tiles(tiles, chosen, source.path.name, alone=len(sources) == 1)
            for note in (*chosen.notes, *notes, *([grouping] if grouping else [])):
                yield Progress("Reading normal tiles", number, len(sources), "slides", path=str(source.path), note=note)
            sets.append(replace(tiles, sources=(source.path.name,)))
        else:
            sets.append((yield from _slide_job(source, view, share, unit, rng)))
    tiles = TileSet.concatenate(sets)
    if len(tiles) < _MIN_TILES:
        msg = f"only {len(tiles)} normal tiles of {tile_px} px were found, at least {_MIN_TILES} are needed"
        only_files = all(source.is_tiles for source in sources)
        more = "outline more normal tissue, add slides, or use smaller tiles (--tile-px 128)"
        raise TooFewTilesError(msg, "add tiles of normal tissue" if only_files else more)
    yield Progress("Reading normal tiles", len(sources), len(sources), "slides")
    return tiles, view.mpp


def stain_job(
    sources: Sequence[TrainingSource], method: StainMethod, tile_px: int, mpp: float | None, *, srgb: bool = False
) -> Job[Stain]:
    """Measure the stains of each source, a slide's on all its tissue as for a map, and return their median."""
    wanted, stains = common_mpp(sources, mpp), []
    for number, source in enumerate(sources):
        yield Progress("Measuring stains", number, len(sources), "slides", path=str(source.path))
        if source.is_tiles:
            stains.append(stain_of_files(list_normal_files(source.path, source.normal_classes).files, method, tile_px))
        else:
            with source.open(srgb=srgb) as slide:
                tissue = tissue_mask(slide, source.tissue_from, source.regions)
                stains.append(Stain.of_slide(slide, tissue, method, tile_px=tile_px, mpp=wanted))
    yield Progress("Measuring stains", len(sources), len(sources), "slides")
    return Stain.between(stains)


def _grouping_unit(sources: Sequence[TrainingSource]) -> str:
    """Return the largest unit of which there are enough to hold some out: slide, region or block."""
    if len(sources) >= _MIN_GROUPS:
        return "slide"
    regions = sum(len(source.regions or ()) for source in sources)
    return "region" if regions >= _MIN_GROUPS and all(source.regions is not None for source in sources) else "block"


def _slide_job(source: TrainingSource, view: DetectorView, share: int, unit: str, rng: np.random.Generator) -> Job[TileSet]:
    with source.open(srgb=view.srgb) as slide:
        outside = outside_note(source.regions or (), slide.shape, source.path.name)
        for note in (*(f"{source.path.name}: {note}" for note in slide.notes), *([outside] if outside else [])):
            yield Progress("Reading normal tiles", unit="slides", path=str(source.path), note=note)
        tissue = tissue_mask(slide, source.tissue_from, source.regions)
        grid = training_grid(slide, tissue, tile_px=view.tile_px, mpp=view.mpp, regions=source.regions)
        if source.regions is not None and not len(grid):
            side_um = view.tile_px * view.mpp
            msg = f"no tile of {side_um:.0f} µm of tissue fits into the normal regions of {source.path.name}"
            raise RegionError(msg, "outline larger areas, on the tissue; check that the outlines belong to this slide")
        seen = view.of_slide(slide, view.measure(slide, tissue))
        tiles = sample_tiles(seen, grid, share, rng, source.regions if unit == "region" else None)
        # Where the outlines are the tissue mask, there may be tissue outside.
        if source.regions is not None and source.tissue_from == "found":
            tiles, covered = with_edges(tiles, seen, tissue, view.mpp, rng)
            if covered:
                note = (
                    f"{source.path.name}: few normal tiles show an edge of the tissue, so {covered} of {len(tiles)} are given one"
                )
                yield Progress("Reading normal tiles", unit="slides", path=str(source.path), note=note)
    return replace(tiles, groups=np.zeros_like(tiles.groups), grouping="slides") if unit == "slide" else tiles
