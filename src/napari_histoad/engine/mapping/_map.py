"""Map a slide: plan its tiles, score them, write the map; interrupted runs resume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from napari_histoad import __version__
from napari_histoad.classifiers import classes_of, load_model
from napari_histoad.detectors import fingerprint
from napari_histoad.engine._detector_view import DetectorView
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._options import check_options
from napari_histoad.engine.mapping._blocks import BlockJoiner, block_rows, score_blocks, tiles_in
from napari_histoad.engine.mapping._compile import compiled_job
from napari_histoad.engine.training._self_detector import SELF_NOTE, self_detector_job
from napari_histoad.errors import BundleError, EmptyTissueError, RegionError, SlideError
from napari_histoad.jobs import Progress, run
from napari_histoad.maps import (
    BLOCK_TILES,
    AnomalyMap,
    MapGeometry,
    MapInfo,
    MapWriter,
    ScoredTiles,
    create_map,
    digest_of_regions,
    finish_job,
    reopen_blocks,
    save_labels,
)
from napari_histoad.regions import Annotations, coverage, outside_note, read_annotations
from napari_histoad.slide import open_slide, slide_name
from napari_histoad.system.atomic import lock_output
from napari_histoad.tiles import (
    Stain,
    TileGrid,
    TileLoader,
    artefacts_note,
    check_artefacts,
    find_artefacts,
    kinds_of,
    tissue_mask,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Unpack

    from numpy.typing import NDArray

    from napari_histoad.calibration import Calibration, ValidFor
    from napari_histoad.detectors import Detector
    from napari_histoad.engine.mapping._cluster import Cluster
    from napari_histoad.jobs import Job
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import ArtefactMask, TissueMask

CELL_UM = 8.0
"""Default side of a map cell in µm; rounded so that the stride is a whole number of cells."""

_BLOCK_SIDE = 8  # steps; 8 x 8 = one block where tissue is dense
_STRIP_BLOCKS = 8
_TOO_BROKEN = 0.5
_UNCHECKED = "was begun by an earlier version, which stored no fingerprint of the slide: only name, size and tissue were compared"


class MapOptions(TypedDict, total=False):
    """Options of mapping, for one slide or many; see `map_job`."""

    mpp: float | None
    stride_px: int | None
    cell_um: float
    device: str
    compile: bool
    resume: bool
    seed: int
    tissue_from: str
    valid_for: ValidFor | None
    artefacts: str


def map_path(slide: Slide | Path, out: Path) -> Path:
    """Return the path of a slide's map in a folder of results."""
    name = slide_name(slide) if isinstance(slide, Path) else slide.name
    return out / f"{name}.ome.zarr"


def map_job(
    slide: Slide,
    out: Path,
    *,
    detector: Detector | None = None,
    mpp: float | None = None,
    stride_px: int | None = None,
    cell_um: float = CELL_UM,
    regions: Sequence[Region] | None = None,
    device: str = "auto",
    compile: bool = False,  # noqa: A002 - as torch calls it
    resume: bool = True,
    seed: int = 0,
    tissue_from: str = "found",
    valid_for: ValidFor | None = None,
    artefacts: str = "mark",
    notes: Sequence[str] = (),
    tissue: TissueMask | None = None,
    plan: MapPlan | None = None,
    cluster: Cluster | None = None,
) -> Job[AnomalyMap]:
    """Map one slide into the folder ``out``; the result is the finished map.

    Parameters
    ----------
    slide : Slide
    out : Path
        Folder of results; the map is ``<slide>.ome.zarr`` in it.
    detector : Detector, optional
        A trained detector; default: one that learns normal from the slide itself.
    mpp : float, optional
        µm per tile pixel, if no detector is given; a detector has its own.
    stride_px : int, optional
        Step between tiles; default half a tile, so that neighbours overlap and blend.
    cell_um : float
        Approximate side of a map cell in µm.
    regions : sequence of Region, optional
        Map only tiles of which at least half is inside these.
    device : str
    compile : bool
        Compile the detector with torch.compile first: worth the wait for many or large slides. Scores differ in the last digits.
    resume : bool
        Continue an existing map of the same slide and settings; False replaces it.
    seed : int
        Random seed of the choice of training tiles, if no detector is given.
    tissue_from : str
        ``"found"``: tissue is detected on the slide. ``"regions"``: everything inside the regions counts as tissue, for stains
        in which tissue is not detected.
    valid_for : {"similar", "new-slide"}, optional
        What the error rates are valid for, see `Calibration`; default: `Calibration.usual_validity`.
    artefacts : {"mark", "leave-out", "ignore"}
        What to do about tiles that are out of focus, folded, or under bubbles, pen, dust or the edge of the cover slip:
        ``"mark"`` states them and changes no score, ``"leave-out"`` does not score them, ``"ignore"`` does not look for them.
    notes : sequence of str
        Sentences about the regions, shown and stored with the map.
    tissue : TissueMask, optional
        If it was detected before; default: detected here.
    plan : MapPlan, optional
        From `plan_map` with this slide, detector and options; default: made here.
    cluster : Cluster, optional
        Score the blocks on the workers of a cluster instead of in this process.

    Raises
    ------
    HistoadError
        With the reason and the remedy.
    """
    check_options(mpp=mpp, stride_px=stride_px, cell_um=cell_um, seed=seed)
    check_artefacts(artefacts)
    slide.require_mpp()
    for note in slide.notes:
        yield Progress("Finding tissue", 0, 1, "slides", note=f"{slide.name}: {note}")
    choice = choose_device(device if cluster is None else "auto")  # a GPU that is asked for is the workers'
    if plan is None:
        note = ""
        if tissue is None:
            yield Progress("Finding tissue", 0, 1, "slides")
            seen = slide if detector is None else DetectorView.of(detector).of_slide(slide)
            tissue = tissue_mask(seen, tissue_from, regions)
            yield Progress("Finding tissue", 1, 1, "slides")
        if detector is None:
            detector = yield from self_detector_job(slide, tissue, mpp=mpp, device=choice.name, seed=seed)
            note = SELF_NOTE
        if artefacts != "ignore":
            yield Progress("Finding artefacts", 0, 1, "slides")
        plan = plan_map(
            slide,
            detector,
            tissue,
            note=note,
            stride_px=stride_px,
            cell_um=cell_um,
            regions=regions,
            tissue_from=tissue_from,
            artefacts=artefacts,
            notes=notes,
        )
    for line in notes:
        yield Progress("Finding tissue", 1, 1, "slides", note=line)
    if valid_for is not None:
        plan.calibration.made_valid_for(valid_for)  # refused before anything is written
    detector, target = plan.detector, map_path(slide, out)
    with lock_output(target):
        result = create_map(
            target,
            plan.info,
            origins=plan.grid.origins,
            tissue=plan.tissue,
            calibration=plan.calibration,
            resume=resume,
            slide=plan.slide,
            artefacts=plan.artefacts,
        )
        chosen_anew = valid_for not in (None, result.calibration.valid_for)
        result.use_rates_for(valid_for)
        if result.info.fingerprint is None:
            yield Progress("Mapping", path=str(target), note=f"{target.name} {_UNCHECKED}")
        repaired = _blocks_to_read_again(result, plan)
        if repaired:
            reopen_blocks(result, repaired, plan.info, plan.slide)
            some = "1 block" if len(repaired) == 1 else f"{len(repaired)} blocks"
            yield Progress("Mapping", path=str(target), note=f"tiles that could not be read can be read now: {some} scored again")
        done = result.finished_blocks()
        todo = [block for block in range(result.block_count) if block not in done]
        finished = tiles_in(done, len(plan.grid))
        yield Progress("Mapping", finished, len(plan.grid), path=str(target))
        if todo:
            errors: list[SlideError] = []
            if cluster is None:
                detector.to(choice.device)
                if compile:
                    detector = yield from compiled_job(detector, choice)
                cells = plan.info.cells_per_tile
                computed = score_blocks(plan.slide, plan.grid, todo, detector, choice, cells, errors)
            else:
                computed = cluster.blocks(
                    plan.slide, plan.grid, todo, detector, target, device, errors, plan.own_stain, compile=compile
                )
            expected = len(plan.grid) if repaired else tiles_in(todo, len(plan.grid))
            yield from write_blocks(result, computed, errors, finished, expected)
        was_complete = result.info.complete
        yield from finish_job(result)
        if was_complete and chosen_anew:
            save_labels(result)
    return result


@dataclass(frozen=True)
class MapPlan:
    """Everything that is known before the first tile is scored: tiles, detector, provenance."""

    slide: Slide
    detector: Detector
    grid: TileGrid
    tissue: TissueMask
    artefacts: ArtefactMask | None
    calibration: Calibration
    info: MapInfo
    own_stain: Stain | None
    """The slide's own stains, if they are normalised."""


def plan_map(
    slide: Slide,
    detector: Detector,
    tissue: TissueMask,
    *,
    note: str = "",
    stride_px: int | None = None,
    cell_um: float = CELL_UM,
    regions: Sequence[Region] | None = None,
    tissue_from: str = "found",
    artefacts: str = "mark",
    notes: Sequence[str] = (),
) -> MapPlan:
    """Return the tiles to score in their order, and the provenance of the map; parameters as in `map_job`."""
    if detector.calibration is None:
        raise BundleError(f"this {detector.name} detector has not been calibrated", "train it, or load it without overrides")
    settings, slide_mpp, view = detector.settings, slide.require_mpp(), DetectorView.of(detector)
    valid_for = detector.calibration.usual_validity(slide.file_name)
    calibration = detector.calibration.made_valid_for(valid_for)
    grid = TileGrid.cover(
        slide.shape,
        slide_mpp,
        tile_px=settings.tile_px,
        mpp=settings.mpp,
        stride_px=settings.tile_px // 2 if stride_px is None else stride_px,
    )
    if 2 * grid.stride_px != grid.tile_px:
        calibration = replace(calibration, field=None)  # it is that of tiles that overlap by half
    geometry = MapGeometry.of(grid, slide.shape, cell_um)
    grid = grid.on_tissue(tissue)
    if regions is not None:
        grid = grid.subset(coverage(grid.boxes, regions) >= 0.5)
        if not len(grid):
            remedy = "check that they belong to this slide, or map all that they cover (in the terminal: --tissue regions)"
            raise RegionError(f"the given regions hold no tissue of {slide.path.name}", remedy)
    if not len(grid):
        raise EmptyTissueError(f"no tile of {slide.path.name} holds tissue", "use smaller tiles or a finer mpp")
    kept = [*slide.notes, *notes]
    if regions is not None:
        outlines = "1 outline" if len(regions) == 1 else f"{len(regions):,} outlines"
        kept.append(f"only tissue inside {outlines} was mapped")
    found = None if artefacts == "ignore" else find_artefacts(view.of_slide(slide), tissue)
    if found is not None:
        kinds = kinds_of(found.of_boxes(grid.boxes))
        left_out = artefacts == "leave-out"
        kept += filter(None, [artefacts_note(kinds, left_out=left_out)])
        if left_out:
            grid = grid.subset(np.array([not kind for kind in kinds]))
        if not len(grid):
            msg = f"all tiles of {slide.path.name} look like artefacts"
            raise EmptyTissueError(msg, 'look at them, or score them: --artefacts mark (Python: artefacts="mark")')
    grid = grid.subset(work_order(grid, geometry))
    own_stain = view.measure(slide, tissue)
    slide = view.of_slide(slide, own_stain)
    info = MapInfo(
        slide=slide.file_name,
        slide_shape=slide.shape,
        slide_mpp=slide_mpp,
        tile_px=grid.tile_px,
        stride_px=grid.stride_px,
        mpp=grid.mpp,
        tile_l0=grid.tile_l0,
        step_l0=geometry.step_l0,
        cell_l0=geometry.cell_l0,
        cells_per_tile=geometry.cells_per_tile,
        cells_per_step=geometry.cells_per_step,
        tiles=len(grid),
        detector=detector.name,
        detector_settings=settings.model_dump(mode="json"),
        detector_id=fingerprint(detector),
        trained_on=list(detector.trained_on),
        stain=() if own_stain is None else own_stain.values,
        classes=classes_of(detector),
        calibration_note=". ".join(filter(None, [calibration.describe(slide.file_name), note])),
        calibration_basis=calibration.basis,
        valid_for=valid_for,
        regions=digest_of_regions(regions),
        tissue_from=tissue_from,
        artefacts=artefacts,
        notes=kept,
        version=__version__,
    )
    return MapPlan(slide, detector, grid, tissue, found, calibration, info, own_stain)


def read_first_tiles(plan: MapPlan) -> None:
    """Read the first tiles of a map and discard them, so that the system has their part of the file in its cache."""
    loader = TileLoader(plan.slide, plan.grid, index=block_rows(0, len(plan.grid)))
    for batch in loader.undecoded():
        loader.decode(batch)  # tiles that cannot be read are reported when they are scored


def _blocks_to_read_again(result: AnomalyMap, plan: MapPlan) -> list[int]:
    """Return the finished blocks with tiles that could not be read when they were scored, but can be read now."""
    unread = result.unread_tiles
    if not len(unread):
        return []
    loader = TileLoader(plan.slide, plan.grid, index=unread)
    found = [batch.index[~batch.failed] for batch in loader]
    return [int(block) for block in np.unique(np.concatenate(found) // BLOCK_TILES)]


def work_order(grid: TileGrid, geometry: MapGeometry) -> NDArray[np.int64]:
    """Return the order in which tiles are scored: square groups of tiles, along strips of such groups.

    Neighbouring groups then share decoded file tiles that are still in the cache, however wide the slide is.
    """
    y, x = (grid.origins // geometry.step_l0).T
    return np.lexsort((x, y, x // _BLOCK_SIDE, y // _BLOCK_SIDE, x // (_BLOCK_SIDE * _STRIP_BLOCKS)))


def write_blocks(
    result: AnomalyMap, computed: Iterable[ScoredTiles | Progress], errors: list[SlideError], finished: int, expected: int
) -> Job[None]:
    """Write batches or blocks as they are scored; `SlideError` if more than half of the ``expected`` tiles could not be read."""
    path, joiner, note = str(result.path), BlockJoiner(len(result)), ""
    with MapWriter(result) as writer:
        for part in computed:
            if isinstance(part, Progress):
                note = part.note
            else:
                finished, note = finished + len(part), ""
                block = joiner.add(part)
                if block is not None:
                    writer.add(block)
            yield Progress("Mapping", finished, len(result), updated=writer.written(), path=path, note=note)
        writer.drain()
        yield Progress("Mapping", finished, len(result), updated=writer.written(), path=path)
    if len(errors) > _TOO_BROKEN * expected:
        raise SlideError(f"{len(errors)} of {expected} tiles cannot be read: {errors[0].what}", errors[0].remedy)


def map_slide(
    slide: str | PathLike[str],
    out: str | PathLike[str],
    *,
    model: str | PathLike[str] | Detector | None = None,
    slide_mpp: float | None = None,
    override_mpp: float | None = None,
    regions: str | PathLike[str] | Sequence[Region] | None = None,
    **options: Unpack[MapOptions],
) -> AnomalyMap:
    """Map a slide and return its `AnomalyMap`, ``<out>/<slide>.ome.zarr``.

    Parameters
    ----------
    slide : path-like
        A file, or the URL of a TIFF.
    out : path-like
        Folder of results.
    model : path-like or Detector, optional
        A trained detector; without one, normal is learnt from the slide itself.
    slide_mpp : float, optional
        µm per level-0 pixel, used if the slide does not state its own.
    override_mpp : float, optional
        µm per level-0 pixel, used instead of what the slide states.
    regions : path-like or sequence of Region, optional
        Map only tiles inside these.
    **options
        ``mpp``, ``stride_px``, ``cell_um``, ``device``, ``compile``, ``resume``, ``seed``, ``tissue_from``, ``valid_for``,
        ``artefacts``: see `map_job`.

    Examples
    --------
    >>> result = map_slide("case.svs", "out", model="skin.safetensors")  # doctest: +SKIP
    >>> measure_regions(result, rate=0.01)  # doctest: +SKIP
    """
    detector = load_model(model) if isinstance(model, str | PathLike) else model
    with open_slide(slide, override_mpp, slide_mpp=slide_mpp) as opened:
        outlines, notes = regions_to_map(opened, regions)
        return run(map_job(opened, Path(out), detector=detector, regions=outlines, notes=notes, **options))


def regions_to_map(
    slide: Slide, regions: str | PathLike[str] | Sequence[Region] | None
) -> tuple[Sequence[Region] | None, tuple[str, ...]]:
    """Return the regions and notes on those that were left out or are outside the slide; a path is read first."""
    if regions is None:
        return None, ()
    if isinstance(regions, str | PathLike):
        found = read_annotations(regions, with_areas=True)
    else:
        found = Annotations.of(regions, with_areas=True)
    outside = outside_note(found.regions, slide.shape, slide.file_name)
    return found.regions, (*found.notes, outside) if outside else found.notes
