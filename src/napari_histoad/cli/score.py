"""``histoad score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_histoad.cli._console import command, finish_tiles
from napari_histoad.cli._options import DeviceOption, JsonOption
from napari_histoad.cli._progress import follow
from napari_histoad.system.tables import write_table


@command("histoad score tiles --model normal.safetensors --out scores.csv", locks_out=True)
def score(
    tiles: Annotated[Path, Argument(help="A folder of tile images, or a manifest.csv that lists them.")],
    model: Annotated[Path, Option(help="Detector file.")],
    out: Annotated[
        Path,
        Option(help="The table to write, with the columns file, score, p_value, calibration_tiles; and problem, if tiles fail."),
    ] = Path("scores.csv"),
    resize: Annotated[bool, Option("--resize", help="Resize tiles that do not have the detector's tile size.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score tile images with a detector and write a table.

    Tiles that cannot be read are reported, the others are scored, and the exit code is 1.
    """
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
    columns = ("file", "score", "p_value", "calibration_tiles", *(["problem"] if errors else []))
    rows: list[tuple[object, ...]] = [
        (file.name, "", "", "", errors[k].what)
        if k in errors
        else (file.name, f"{scores[k]:.6g}", f"{p_values[k]:.6g}", count, *([""] if errors else []))
        for k, file in enumerate(files)
    ]
    write_table(out, columns, rows)
    note = detector.calibration.note
    shown = [("Scored", f"{len(good):,} tiles -> {out}"), ("Calibration", note)]
    finish_tiles({"scores": str(out), "tiles": len(good), "calibration": note}, shown, files, errors, as_json)
