"""``histoad map``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from napari_histoad.cli._console import WRONG_USE, command, emit, say
from napari_histoad.cli._options import (
    SLIDE,
    CompileOption,
    DeviceOption,
    JsonOption,
    MppOption,
    OverrideMppOption,
    StrideOption,
    TissueOption,
    ValidForOption,
    chosen_validity,
    with_mpp,
)
from napari_histoad.cli._progress import follow
from napari_histoad.errors import HistoadError, SettingsError

if TYPE_CHECKING:
    from napari_histoad.maps import AnomalyMap


@command("histoad map case.svs --out maps", "histoad map *.svs --model normal.safetensors --out maps")
def map_slides(
    slides: Annotated[
        list[Path], Argument(help="Slides, or a csv with the column slide and optionally mpp, model, regions.", **SLIDE)
    ],
    out: Annotated[Path, Option(help="Folder to write the maps to, each as <slide>.ome.zarr.")],
    model: Annotated[
        Path | None, Option(help="Detector or classifier file; without one, a detector is trained on the slide itself.")
    ] = None,
    mpp: Annotated[
        float | None, Option(help="µm per tile pixel, if no --model is given; default: 0.5.", min=0.05, max=20)
    ] = None,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    stride: StrideOption = None,
    cell_um: Annotated[float, Option(help="Width of a pixel of the map in µm.", min=0.5)] = 8.0,
    regions: Annotated[Path | None, Option(help="Outlines on the slide: map only inside them.")] = None,
    tissue: TissueOption = "found",
    valid_for: ValidForOption = None,
    artefacts: Annotated[
        str,
        Option(
            metavar="mark|leave-out|ignore",
            help="Tiles out of focus, folded, or under bubbles, pen, dust or the edge of the cover slip: mark them, do not score "
            "them, or do not look for them.",
        ),
    ] = "mark",
    resume: Annotated[bool, Option(help="Resume an unfinished map, or start again.")] = True,
    scheduler: Annotated[
        str | None, Option(help="Compute on the Dask cluster with this scheduler, such as tcp://host:8786.")
    ] = None,
    device: DeviceOption = "auto",
    compiled: CompileOption = False,
    as_json: JsonOption = False,
) -> None:
    """Map how far each piece of tissue on a slide is from normal.

    An interrupted run is resumed by the same command.

    Slides that fail are reported, the others are mapped, and the exit code is 1.
    """
    from napari_histoad.engine import Cluster, CohortSlide, cohort_job, read_cohort

    validity = chosen_validity(valid_for)
    listed = [s for path in slides for s in (read_cohort(path) if path.suffix.lower() == ".csv" else [CohortSlide(path)])]
    if regions is not None and sum(s.regions is None for s in listed) > 1:
        msg = f"--regions {regions} contains the outlines of one slide, but {len(listed)} slides are given"
        raise SettingsError(msg, "list slides and outlines in a csv with the columns slide, regions, and map that csv")
    listed = with_mpp(listed, slide_mpp, override_mpp)
    cohort = [replace(s, model=s.model or model, regions=s.regions or regions) for s in listed]
    if not as_json and any(slide.model is None for slide in cohort):
        say("no --model: a detector is trained on each slide itself; it finds rare tissue, not slides abnormal throughout")

    def report(slide: CohortSlide, outcome: AnomalyMap | HistoadError) -> None:
        if isinstance(outcome, HistoadError):
            say(f"error: {outcome}" if len(cohort) == 1 else f"error: {slide.path.name}: {outcome}")

    with nullcontext() if scheduler is None else Cluster(scheduler) as cluster:
        job = cohort_job(
            cohort,
            out,
            cluster=cluster,
            on_slide=report,
            mpp=mpp,
            stride_px=stride,
            cell_um=cell_um,
            tissue_from=tissue,
            valid_for=validity,
            artefacts=artefacts,
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


def _describe(result: AnomalyMap) -> dict[str, Any]:
    from napari_histoad.results import describe_saved

    rate = result.default_rate
    flagged = float((result.p_values <= rate).mean())
    found = describe_saved(result)
    interval = result.calibration.rate_interval(rate)
    whom = result.calibration.whom(result.info.slide)
    summary = f"at a nominal false-positive rate of {rate:.1%} {whom}: {found} -> {result.path}"
    warning, left_out = result.drift_warning, [] if interval is None else [interval.sentence]
    for note in (*filter(None, [result.calibration_note, *left_out, result.region_note]), *result.notes):
        summary += f"\n  warning: {note} (histoad recalibrate)" if note == warning else f"\n  {note}"
    return {
        "slide": result.info.slide,
        "map": str(result.path),
        "tiles": len(result),
        "failed_tiles": result.info.failed_tiles,
        "false_positive_rate": rate,
        "flagged_fraction": flagged,
        "valid_for": result.calibration.valid_for,
        "left_out_rates": None if interval is None else interval._asdict(),
        "findings": found,
        "calibration": result.calibration_note,
        "warning": warning,
        "notes": result.notes,
        "unread_tiles": result.origins[result.unread_tiles].tolist(),
        "summary": summary,
    }
