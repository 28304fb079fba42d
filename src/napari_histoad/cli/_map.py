"""``histoad map``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histoad.cli._console import (
    SLIDE,
    WRONG_USE,
    CompileOption,
    DeviceOption,
    JsonOption,
    MppOption,
    OverrideMppOption,
    TissueOption,
    command,
    emit,
    follow,
    say,
)
from napari_histoad.errors import HistoadError, SettingsError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from napari_histoad.engine.mapping._cluster import Cluster
    from napari_histoad.maps import AnomalyMap

__all__ = ["map_slides"]


@command
def map_slides(
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="Slides, or a csv with the column slide and, as needed, mpp, model, regions.", **SLIDE, show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the maps, <slide>.ome.zarr each.", show_default=False)],
    model: Annotated[
        Path | None, typer.Option(help="Trained detector; without one, normal is learnt from the slide itself.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Without a model: µm per tile pixel.", min=0.05, max=20)] = None,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    stride: Annotated[
        int | None, typer.Option(help="Step between tiles, tile pixels; default half a tile.", min=1, max=1024)
    ] = None,
    cell_um: Annotated[float, typer.Option(help="Side of a map cell in µm.", min=0.5)] = 8.0,
    regions: Annotated[Path | None, typer.Option(help="Map only inside these outlines, of the only slide.")] = None,
    tissue: TissueOption = "found",
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished map, or start anew.")] = True,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask.distributed scheduler, tcp://host:8786: its workers do the work.")
    ] = None,
    device: DeviceOption = "auto",
    compiled: CompileOption = False,
    as_json: JsonOption = False,
) -> None:
    """Map how far each piece of tissue is from normal. Goes on after a slide that fails; exit code 1 tells of it."""
    from napari_histoad.engine import CohortSlide, cohort_job, read_cohort
    from napari_histoad.slide import GivenMpp

    given = GivenMpp(slide_mpp, override_mpp)
    listed = [s for path in slides for s in (read_cohort(path) if path.suffix.lower() == ".csv" else [CohortSlide(path)])]
    if regions is not None and sum(s.regions is None for s in listed) > 1:
        msg = f"--regions {regions} holds the outlines of one slide, but {len(listed)} slides are given"
        raise SettingsError(msg, "list them in a csv with the columns slide, regions and map that")
    cohort = []
    for s in listed:
        stated = given.of(s.path)
        own = s.mpp if s.mpp is not None else stated["mpp"]
        cohort.append(CohortSlide(s.path, own, s.model or model, s.regions or regions, stated["slide_mpp"]))
    if not as_json and any(slide.model is None for slide in cohort):
        say("no model: learning normal from each slide's own tissue (rare tissue stands out; an abnormal whole does not)")

    def tell(slide: CohortSlide, outcome: AnomalyMap | HistoadError) -> None:
        if isinstance(outcome, HistoadError):
            say(f"error: {outcome}" if len(cohort) == 1 else f"error: {slide.path.name}: {outcome}")

    with _cluster(scheduler) as cluster:
        job = cohort_job(
            cohort,
            out,
            cluster=cluster,
            on_slide=tell,
            mpp=mpp,
            stride_px=stride,
            cell_um=cell_um,
            tissue_from=tissue,
            device=device,
            compile=compiled,
            resume=resume,
        )
        result = follow(job, quiet=as_json)
    done = [_describe(finished) for finished in result.maps]
    failed = [{"slide": str(path), "what": err.what, "remedy": err.remedy} for path, err in result.failures]
    rows = [(entry["slide"], entry["summary"]) for entry in done]
    rows += [(Path(entry["slide"]).name, f"FAILED: {entry['what']}") for entry in failed]
    emit({"maps": done, "failed": failed}, rows, as_json=as_json)
    if failed:
        wrong_use = len(cohort) == 1 and isinstance(result.failures[0][1], WRONG_USE)
        raise typer.Exit(2 if wrong_use else 1)


def _cluster(scheduler: str | None) -> AbstractContextManager[Cluster | None]:
    if scheduler is None:
        return nullcontext()
    from napari_histoad.engine.mapping._cluster import Cluster

    return Cluster(scheduler)


def _describe(result: AnomalyMap) -> dict[str, Any]:
    from napari_histoad.results import describe_saved

    rate = result.default_rate
    flagged = float((result.p_values <= rate).mean())
    found = describe_saved(result)
    summary = f"at a nominal false-positive rate of {rate:.1%}: {found} -> {result.path}"
    warning = result.drift_warning
    for note in (result.info.calibration_note, *result.notes):
        summary += f"\n  warning: {note} (histoad recalibrate)" if note == warning else f"\n  {note}"
    return {
        "slide": result.info.slide,
        "map": str(result.path),
        "tiles": len(result),
        "failed_tiles": result.info.failed_tiles,
        "false_positive_rate": rate,
        "flagged_fraction": flagged,
        "findings": found,
        "calibration": result.info.calibration_note,
        "warning": warning,
        "notes": result.notes,
        "unread_tiles": result.origins[result.unread_tiles].tolist(),
        "summary": summary,
    }
