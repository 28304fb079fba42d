"""Many slides: which ones, one after the other or spread over a cluster, and going on after one that fails."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from napari_histoad.classifiers import load_model
from napari_histoad.detectors import read_header
from napari_histoad.engine.mapping._map import CELL_UM, map_job, map_path, plan_map, read_first_tiles, regions_to_map
from napari_histoad.errors import HistoadError, JobCancelledError, SettingsError, explained
from napari_histoad.jobs import Progress, run
from napari_histoad.slide import is_url, listed_mpp, locate, open_slide, slide_path
from napari_histoad.system.host import keep_freed_memory
from napari_histoad.system.tables import is_missing, listed_path, read_table
from napari_histoad.tiles import check_artefacts, check_tissue_from, tissue_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Unpack

    from napari_histoad.detectors import Detector
    from napari_histoad.engine.mapping._cluster import Cluster
    from napari_histoad.engine.mapping._map import MapOptions, MapPlan
    from napari_histoad.jobs import Job
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide
    from napari_histoad.system.tables import TableRow
    from napari_histoad.tiles import TissueMask

_AT_ONCE = 2
_COLUMNS = ("slide", "mpp", "model", "regions")


@dataclass(frozen=True)
class CohortSlide:
    """One slide of many."""

    path: Path
    mpp: float | None = None  # µm per level-0 pixel, whatever the file states: a table names its slide
    model: Path | None = None  # the detector; without one, normal is learnt from the slide itself
    regions: Path | None = None  # map only inside these
    slide_mpp: float | None = None  # µm per level-0 pixel, used if the slide states none

    def __post_init__(self) -> None:
        if is_url(self.path):
            object.__setattr__(self, "path", locate(self.path))  # shown from here on without signatures and passwords


@dataclass
class CohortResult:
    """The maps in the order in which they were finished, and the slides that failed, with the reason."""

    maps: list[AnomalyMap] = field(default_factory=list)
    failures: list[tuple[Path, HistoadError]] = field(default_factory=list)


def read_cohort(table: Path) -> list[CohortSlide]:
    """Return the slides that a csv lists in its column ``slide``, with ``mpp``, ``model`` and ``regions`` where given.

    Paths are relative to the table; a line that is there twice counts once. Raises `SettingsError` if it cannot be read, names an
    unknown column, or holds an invalid resolution.
    """
    content = read_table(table, _COLUMNS, ("slide",))

    def path(row: TableRow, column: str) -> Path | None:
        return None if is_missing(row[column]) else listed_path(row[column], table.parent)

    slides: dict[Path, CohortSlide] = {}
    for row in content.rows:
        where, named = f"{table.name}, line {row.line}", row["slide"]
        slide = slide_path(named) if is_url(named) else path(row, "slide")
        if slide is None:
            raise SettingsError(f"{where}: no slide is named", "fill in the column slide")
        listed = CohortSlide(slide, listed_mpp(row["mpp"], where), path(row, "model"), path(row, "regions"))
        if slides.setdefault(slide, listed) != listed:
            raise SettingsError(f"{where}: {slide.name} is listed before, with other values", "keep one of the lines")
    if not slides:
        raise SettingsError(f"{table.name} lists no slide", "write one path per line under the heading slide")
    return list(slides.values())


def cohort_job(
    slides: Sequence[CohortSlide],
    out: Path,
    *,
    cluster: Cluster | None = None,
    on_slide: Callable[[CohortSlide, AnomalyMap | HistoadError], object] | None = None,
    **options: Unpack[MapOptions],
) -> Job[CohortResult]:
    """Map slides into one folder; a slide that fails does not stop the others.

    While one slide is mapped, the next is opened, its tissue found, its map planned and its first tiles read. On a cluster two
    slides are in flight at once, so that workers are never idle between them. ``on_slide`` is called with each slide and its map
    or error as soon as it is finished; options are those of `map_job`. Raises `SettingsError` if two slides have the same name or
    regions, or the regions are to be taken as tissue and a slide has none; `BundleError` if a model is no detector.
    """
    seen: dict[Path, Path] = {}
    for slide in slides:
        target = map_path(slide.path, out)
        if target in seen:
            msg = f"two slides have the same name, their maps would overwrite each other: {seen[target]} and {slide.path}"
            raise SettingsError(msg, "map them into different folders")
        seen[target] = slide.path
    outlines = [slide.regions.resolve() for slide in slides if slide.regions is not None]
    twice = next((file for file in outlines if outlines.count(file) > 1), None)
    if twice is not None:
        msg = f"the regions in {twice.name} are given for several slides"
        raise SettingsError(msg, "they belong to one: list slides and regions in the columns slide, regions of a csv")
    check_artefacts(options.get("artefacts", "mark"))
    for slide in slides:
        check_tissue_from(options.get("tissue_from", "found"), given=slide.regions is not None)
    for model in {slide.model for slide in slides if slide.model is not None}:
        read_header(model)  # a wrong one is told at once, not slide by slide
    result = CohortResult()

    def finish(slide: CohortSlide, outcome: AnomalyMap | HistoadError) -> None:
        if isinstance(outcome, HistoadError):
            result.failures.append((slide.path, outcome))
        else:
            result.maps.append(outcome)
        if on_slide is not None:
            on_slide(slide, outcome)

    if cluster is None:
        yield from _in_turn(slides, out, finish, options)
    else:
        yield from _at_once(slides, out, cluster, finish, options)
    return result


def _in_turn(
    slides: Sequence[CohortSlide],
    out: Path,
    finish: Callable[[CohortSlide, AnomalyMap | HistoadError], None],
    options: MapOptions,
) -> Job[None]:
    keep_freed_memory()  # before the thread begins: it would have memory of its own, and keep a large slide's plan there
    detector_of = lru_cache(maxsize=1)(_load)

    def prepare_next(slide: CohortSlide) -> _Prepared:
        ready = _prepare(slide, detector_of, options)
        if ready.plan is not None:
            read_first_tiles(ready.plan)
        return ready

    with ThreadPoolExecutor(1, thread_name_prefix="prepare") as pool:
        following = pool.submit(_prepare, slides[0], detector_of, options)
        for number, slide in enumerate(slides, start=1):
            prepared = following
            outcome: AnomalyMap | HistoadError
            try:
                yield Progress("Finding tissue", 0, 1, "slides")
                ready = prepared.result()
                yield Progress("Finding tissue", 1, 1, "slides")
                if number < len(slides):
                    following = pool.submit(prepare_next, slides[number])
                with ready.slide:
                    outcome = yield from ready.job(out, options)
            except JobCancelledError:
                raise
            except Exception as err:  # noqa: BLE001 - whatever is wrong with one slide, the others are mapped
                outcome = explained(err)
                if following is prepared and number < len(slides):
                    following = pool.submit(prepare_next, slides[number])
            finish(slide, outcome)


def _load(model: Path | None) -> Detector | None:
    return None if model is None else load_model(model)


class _Prepared(NamedTuple):
    slide: Slide
    regions: Sequence[Region] | None
    tissue: TissueMask
    plan: MapPlan | None
    """None: what is normal has yet to be learnt from the slide."""
    notes: tuple[str, ...]

    def job(self, out: Path, options: MapOptions, cluster: Cluster | None = None) -> Job[AnomalyMap]:
        return map_job(
            self.slide,
            out,
            regions=self.regions,
            notes=self.notes,
            tissue=self.tissue,
            plan=self.plan,
            cluster=cluster,
            **options,
        )


def _prepare(
    slide: CohortSlide,
    detector_of: Callable[[Path | None], Detector | None],
    options: MapOptions,
) -> _Prepared:
    detector = detector_of(slide.model)
    opened = open_slide(slide.path, slide.mpp, slide_mpp=slide.slide_mpp, srgb=detector is not None and detector.settings.srgb)
    try:
        opened.require_mpp()
        regions, notes = regions_to_map(opened, slide.regions)
        tissue_from = options.get("tissue_from", "found")
        tissue, plan = tissue_mask(opened, tissue_from, regions), None
        if detector is not None:
            stride, cell_um = options.get("stride_px"), options.get("cell_um", CELL_UM)
            plan = plan_map(
                opened,
                detector,
                tissue,
                stride_px=stride,
                cell_um=cell_um,
                regions=regions,
                tissue_from=tissue_from,
                artefacts=options.get("artefacts", "mark"),
                notes=notes,
            )
        return _Prepared(opened, regions, tissue, plan, notes)
    except BaseException:
        opened.close()
        raise


def _at_once(
    slides: Sequence[CohortSlide],
    out: Path,
    cluster: Cluster,
    finish: Callable[[CohortSlide, AnomalyMap | HistoadError], None],
    options: MapOptions,
) -> Job[None]:
    """Drive the jobs of several slides in threads; reports are of all slides begun so far."""
    events: queue.SimpleQueue[tuple[CohortSlide, Any]] = queue.SimpleQueue()
    counts: dict[CohortSlide, Progress] = {}
    stopped = False

    def drive(slide: CohortSlide) -> None:
        def report(progress: Progress) -> None:
            if stopped:
                raise JobCancelledError("stopped")
            if progress.stage == "Mapping":
                events.put((slide, progress))

        try:
            if stopped:
                return
            ready = _prepare(slide, _load, options)
            with ready.slide:
                events.put((slide, run(ready.job(out, options, cluster), report)))
        except BaseException as err:  # noqa: BLE001 - raised or reported in the thread that waits
            events.put((slide, err))

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="slide") as pool:
        try:
            for slide in slides:
                pool.submit(drive, slide)
            due = len(slides)
            while due:
                try:
                    slide, event = events.get(timeout=0.5)
                except queue.Empty:
                    event = None
                if isinstance(event, Progress):
                    counts[slide] = event
                elif event is not None:
                    due -= 1
                    if isinstance(event, BaseException) and not isinstance(event, Exception):
                        raise event
                    finish(slide, explained(event) if isinstance(event, Exception) else event)
                done, total = sum(p.done for p in counts.values()), sum(p.total for p in counts.values())
                yield Progress("Mapping", done, total)
        finally:
            stopped = True
