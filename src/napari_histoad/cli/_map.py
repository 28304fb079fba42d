"""``histoad map``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histoad.cli._console import DeviceOption, JsonOption, MppOption, command, emit, follow, say
from napari_histoad.errors import HistoadError, SettingsError

if TYPE_CHECKING:
    from napari_histoad.maps import AnomalyMap

__all__ = ["map_slides"]


@command
def map_slides(
    slides: Annotated[list[Path], typer.Argument(help="Slides to map.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the maps, <slide>.ome.zarr each.", show_default=False)],
    model: Annotated[
        Path | None, typer.Option(help="Trained detector; without one, normal is learnt from the slide itself.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="Without a model: µm per tile pixel.")] = None,
    slide_mpp: MppOption = None,
    stride: Annotated[int | None, typer.Option(help="Step between tiles in tile pixels; default half a tile.")] = None,
    cell_um: Annotated[float, typer.Option(help="Side of a map cell in µm.", min=0.5)] = 8.0,
    regions: Annotated[Path | None, typer.Option(help="Map only inside these outlines.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished map, or start anew.")] = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Map how far each piece of tissue is from normal. Goes on after a slide that fails; exit code 1 tells of it."""
    from napari_histoad.detectors import load_detector
    from napari_histoad.engine import map_job, map_path
    from napari_histoad.regions import read_regions
    from napari_histoad.slide import GivenMpp, open_slide

    given_mpp = GivenMpp(slide_mpp)
    detector = load_detector(model) if model is not None else None
    outlines = read_regions(regions) if regions is not None else None
    targets = [map_path(path, out) for path in slides]
    if len(set(targets)) < len(targets):
        raise SettingsError(
            "two slides have the same name, their maps would overwrite each other", "map them into different folders"
        )
    if model is None and not as_json:
        say("no --model: learning normal from each slide's own tissue (rare tissue stands out; an abnormal whole does not)")
    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for path in slides:
        try:
            with open_slide(path, given_mpp.of(path)) as slide:
                job = map_job(
                    slide,
                    out,
                    detector=detector,
                    mpp=mpp,
                    stride_px=stride,
                    cell_um=cell_um,
                    regions=outlines,
                    device=device,
                    resume=resume,
                )
                done.append(_describe(follow(job, quiet=as_json)))
        except HistoadError as err:
            failed.append({"slide": str(path), "what": err.what, "remedy": err.remedy})
            say(f"error: {err}")
            if len(slides) == 1 and isinstance(err, SettingsError):
                raise typer.Exit(2) from err
    rows = [(entry["slide"], entry["summary"]) for entry in done]
    rows += [(Path(entry["slide"]).name, f"FAILED: {entry['what']}") for entry in failed]
    emit({"maps": done, "failed": failed}, rows, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _describe(result: AnomalyMap) -> dict[str, Any]:
    rate = result.calibration.default_rate
    flagged = float((result.p_values <= rate).mean())
    summary = f"{len(result):,} tiles, {flagged:.1%} flagged at a {rate:.1%} false-positive rate -> {result.path}"
    if result.info.failed_tiles:
        summary += f" ({result.info.failed_tiles} tiles could not be read)"
    return {
        "slide": result.info.slide,
        "map": str(result.path),
        "tiles": len(result),
        "failed_tiles": result.info.failed_tiles,
        "false_positive_rate": rate,
        "flagged_fraction": flagged,
        "summary": summary,
    }
