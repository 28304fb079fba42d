"""``histoad score``, ``evaluate`` and ``report``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histoad.cli._console import SLIDE, DeviceOption, JsonOption, command, emit, finish_tiles, follow, say
from napari_histoad.errors import HistoadError, MapError, SettingsError, SlideError, explained, writing

if TYPE_CHECKING:
    from napari_histoad.evaluation import Evaluation
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.slide import Slide

__all__ = ["evaluate", "report", "score"]

RateOption = Annotated[
    float | None,
    typer.Option(
        help="False-positive rate of the threshold; default: that of the saved regions, else 0.01 or the smallest that the "
        "calibration can state."
    ),
]
FdrOption = Annotated[
    float | None,
    typer.Option(help="Instead of --rate: false discovery rate, the share of flagged tiles that may be normal."),
]
MapArgument = Annotated[Path, typer.Argument(help="A map, <slide>.ome.zarr.", show_default=False)]
SlideOption = Annotated[
    Path | None, typer.Option("--slide", help="The slide that was mapped, where it is not found by itself.", **SLIDE)
]
SlidesOption = Annotated[
    list[Path] | None,
    typer.Option("--slide", help="The slides that were mapped, in any order, where they are not found by themselves.", **SLIDE),
]


@command
def score(
    tiles: Annotated[Path, typer.Argument(help="A folder of tiles, or a manifest.csv.", show_default=False)],
    model: Annotated[Path, typer.Option(help="Trained detector.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            help="The table to write: file, score, p_value, calibration_tiles; and problem, if a tile cannot be scored."
        ),
    ] = Path("scores.csv"),
    resize: Annotated[bool, typer.Option("--resize", help="Resize tiles of another size.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score tiles that are files. Goes on after a tile that cannot be read; exit code 1 tells of it."""
    from napari_histoad.detectors import load_detector
    from napari_histoad.engine import score_files_job
    from napari_histoad.tiles import list_tile_files

    detector = load_detector(model)
    assert detector.calibration is not None
    files = list_tile_files(tiles)
    scores, errors = follow(score_files_job(detector, files, device, resize=resize), quiet=as_json)
    good = [k for k in range(len(files)) if k not in errors]
    count = len(detector.calibration.scores)
    p_values = dict(zip(good, detector.calibration.p_value(scores[good]), strict=True))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="", encoding="utf-8", errors="surrogateescape") as handle:
            table = csv.writer(handle)
            table.writerow(["file", "score", "p_value", "calibration_tiles", *(["problem"] if errors else [])])
            for k, file in enumerate(files):
                if k in errors:
                    table.writerow([file.name, "", "", "", errors[k].what])
                else:
                    table.writerow([file.name, f"{scores[k]:.6g}", f"{p_values[k]:.6g}", count, *([""] if errors else [])])
    finish_tiles({"scores": str(out), "tiles": len(good)}, [("Scored", f"{len(good):,} tiles -> {out}")], files, errors, as_json)


@command
def evaluate(
    result: Annotated[Path, typer.Argument(help="A map, or a scores.csv.", show_default=False)],
    truth: Annotated[Path, typer.Option(help="Outlines of the anomalies, or a manifest.csv with labels.", show_default=False)],
    rate: RateOption = None,
    fdr: FdrOption = None,
    truth_downsample: Annotated[float, typer.Option(help="Divide the outlines' coordinates by this.")] = 1.0,
    exclude: Annotated[Path | None, typer.Option(help="Leave out tiles in these outlines, such as the training regions.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a map with known anomalies, or scores with labels: AUROC, average precision, F1, lesions found."""
    from napari_histoad.evaluation import evaluate as evaluate_map
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import read_regions

    if result.suffix.lower() == ".csv":
        if fdr is not None:
            raise SettingsError("--fdr is for maps", "use --rate with a table of scores")
        if truth_downsample != 1 or exclude is not None:
            raise SettingsError(
                "--truth-downsample and --exclude are for maps and outlines", "leave them out for a table of scores"
            )
        evaluation = _evaluate_table(result, truth, rate)
    else:
        left_out = read_regions(exclude) if exclude is not None else ()
        opened = AnomalyMap.open(result)
        rate = chosen_rate(opened, rate, fdr)
        evaluation = evaluate_map(opened, truth, rate=rate, downsample=truth_downsample, exclude=left_out)
    emit(evaluation.to_json(), evaluation.rows(), as_json=as_json)


def _evaluate_table(scores: Path, truth: Path, rate: float | None) -> Evaluation:
    import numpy as np

    from napari_histoad.evaluation import evaluate_scores
    from napari_histoad.system.tables import is_missing, number, read_table
    from napari_histoad.tiles import list_tile_files

    files = {file.name: file for file in list_tile_files(truth)}
    required = ("file", "score", "p_value")
    table = read_table(scores, (*required, "calibration_tiles"), required, others=True)
    try:
        scored = [row for row in table.rows if not is_missing(row["score"])]
        rows = [(files.get(row["file"]), number(row["score"]), number(row["p_value"])) for row in scored]
        counts = [int(number(row["calibration_tiles"])) for row in scored if not is_missing(row["calibration_tiles"])]
        if min(counts, default=1) < 1:
            raise ValueError("less than one calibration tile")
    except ValueError as err:
        raise SettingsError(f"{scores} is not a table of scores ({err})", "write one with histoad score") from err
    known = [(file, s, p) for file, s, p in rows if file is not None and file.label is not None]
    if not known:
        raise SettingsError(f"no file of {scores.name} has a label in {truth.name}", "score the tiles of the same manifest")
    groups = np.unique([file.group for file, _, _ in known], return_inverse=True)[1]
    labels = np.array([file.label != 0 for file, _, _ in known])
    found, p_values = (np.array([row[column] for row in known]) for column in (1, 2))
    fewest = min(counts, default=None)
    return evaluate_scores(labels, found, p_values, groups, rate=rate, calibration_tiles=fewest)


@command
def report(
    results: Annotated[list[Path], typer.Argument(help="Maps.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    slide: SlidesOption = None,
    rate: RateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page with pictures, figures and flagged regions; exit code 1 if a map failed, the others are in it."""
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.results import write_report

    given = {path: open_slide_file(path) for path in slide or ()}
    entries: list[tuple[Any, Any]] = []
    failed: list[dict[str, str]] = []
    used: set[Path] = set()

    def fails(path: Path, err: Exception) -> None:
        known = explained(err)
        say(f"error: {path.name}: {known}")
        failed.append({"map": str(path), "what": known.what, "remedy": known.remedy})

    for path in results:
        try:
            opened = AnomalyMap.open(path)
            fitting = [file for file, pixels in given.items() if _is_of(opened, pixels)]
            used.update(fitting)
            entries.append((opened, given[fitting[0]] if fitting else _found(opened)))
        except Exception as err:
            if len(results) == 1:
                raise
            fails(path, err)
    for file in given:
        if file not in used and entries:
            entries[0][0].check_slide(given[file])  # says what differs
            raise SettingsError(f"{file.name} is the slide of none of these maps", "leave it out")
    if not entries:
        raise SettingsError("none of the maps can be reported", "see the errors above")
    write_report(entries, out, rate=rate, on_error=None if len(results) == 1 else lambda m, err: fails(m.path, err))
    emit({"report": str(out), "failed": failed}, [("Written", out)], as_json=as_json)
    if failed:
        raise typer.Exit(1)


def open_slide_file(path: Path, mpp: float | None = None) -> Slide:
    from napari_histoad.slide import open_slide

    return open_slide(path, mpp)


def _is_of(opened: AnomalyMap, pixels: Slide) -> bool:
    try:
        opened.check_slide(pixels)
    except MapError:
        return False
    return True


def _found(opened: AnomalyMap) -> Slide | None:
    """Open the slide of a map where it is found by itself; None, with the reason said, if it is not or is another one."""
    try:
        slide = slide_of(opened, None)
        opened.check_slide(slide)
    except HistoadError as err:
        say(f"{opened.path.name}: no picture: {err}")
        return None
    return slide


def chosen_rate(opened: AnomalyMap, rate: float | None, fdr: float | None) -> float | None:
    if fdr is None:
        if rate is not None:
            opened.calibration.threshold(rate)  # an impossible rate is refused before anything is written
        return rate
    if rate is not None:
        raise SettingsError("--rate and --fdr are two ways to set the same threshold", "give one of them")
    return opened.discovery_rate(fdr)


def slide_of(opened: AnomalyMap, given: Path | None) -> Slide:
    """Open the slide of a map: as given, or where it is found by itself.

    Raises
    ------
    SlideError
        If it is not found.
    """
    path = given or opened.find_slide()
    if path is None:
        raise SlideError(f"the slide {opened.info.slide} was not found", "say where it is with --slide")
    return open_slide_file(path, opened.info.slide_mpp)
