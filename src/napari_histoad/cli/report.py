"""``histoad report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from napari_histoad.cli._console import command, emit, say
from napari_histoad.cli._options import (
    SLIDE,
    ExtrapolateOption,
    JsonOption,
    RateOption,
    ValidForOption,
    chosen_validity,
    open_slide_of,
)
from napari_histoad.errors import HistoadError, SettingsError, explained

if TYPE_CHECKING:
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.slide import Slide


@command("histoad report maps/case.ome.zarr", "histoad report maps/*.ome.zarr --out study.html", locks_out=True)
def report(
    results: Annotated[list[Path], Argument(help="Anomaly maps, <slide>.ome.zarr.", metavar="MAP")],
    out: Annotated[Path, Option(help="The HTML file to write.")] = Path("report.html"),
    slide: Annotated[
        list[Path] | None,
        Option("--slide", help="The slides of the maps, in any order, if they are not found beside the maps.", **SLIDE),
    ] = None,
    rate: RateOption = None,
    valid_for: ValidForOption = None,
    extrapolate: ExtrapolateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write an HTML report on one or more maps: pictures, score histograms and flagged regions.

    Maps that cannot be read are left out, and the exit code is 1.
    """
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.results import write_report
    from napari_histoad.slide import open_slide

    validity = chosen_validity(valid_for)
    given = {path: open_slide(path) for path in slide or ()}
    entries: list[tuple[Any, Any]] = []
    failed: list[dict[str, str]] = []
    used: set[Path] = set()

    def report_failure(path: Path, err: Exception) -> None:
        known = explained(err)
        say(f"error: {path.name}: {known}")
        failed.append({"map": str(path), "what": known.what, "remedy": known.remedy})

    for path in results:
        try:
            opened = AnomalyMap.open(path)
            opened.use_rates_for(validity)
            if extrapolate:
                opened.use_tail()
            fitting = [file for file, pixels in given.items() if opened.is_of(pixels)]
            used.update(fitting)
            entries.append((opened, given[fitting[0]] if fitting else _found(opened)))
        except Exception as err:
            if len(results) == 1:
                raise
            report_failure(path, err)
    for file in given:
        if file not in used and entries:
            entries[0][0].check_slide(given[file])  # its error names the difference
            raise SettingsError(f"--slide {file.name} does not belong to any of these maps", "leave it out")
    if not entries:
        raise SettingsError("none of the maps could be read", "see the errors above")
    write_report(entries, out, rate=rate, on_error=None if len(results) == 1 else lambda m, err: report_failure(m.path, err))
    emit({"report": str(out), "failed": failed}, [("Written", out)], as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _found(opened: AnomalyMap) -> Slide | None:
    """Open the slide that a map names; print the reason and return None if it is missing or another one."""
    try:
        slide = open_slide_of(opened, None)
        opened.check_slide(slide)
    except HistoadError as err:
        say(f"{opened.path.name}: the report has no picture of the slide: {err}")
        return None
    return slide
