"""``histoad evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from napari_histoad.cli._console import command, emit
from napari_histoad.cli._options import ExtrapolateOption, FdrOption, JsonOption, RateOption, ValidForOption, chosen_rate
from napari_histoad.errors import SettingsError

if TYPE_CHECKING:
    from napari_histoad.evaluation import Evaluation


@command("histoad evaluate maps/case.ome.zarr --truth lesions.geojson", "histoad evaluate scores.csv --truth manifest.csv")
def evaluate(
    result: Annotated[Path, Argument(help="Anomaly map, or a scores.csv of histoad score.", metavar="MAP|CSV")],
    truth: Annotated[Path, Option(help="Outlines of the known anomalies; for scores, a manifest.csv with labels.")],
    rate: RateOption = None,
    fdr: FdrOption = None,
    valid_for: ValidForOption = None,
    extrapolate: ExtrapolateOption = False,
    truth_downsample: Annotated[float, Option(help="Divide the coordinates of the outlines by this number.")] = 1.0,
    exclude: Annotated[Path | None, Option(help="Outlines of tissue to leave out, such as the training regions.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a map with outlined anomalies, or tile scores with labels: AUROC, average precision, F1, FROC."""
    from napari_histoad.evaluation import evaluate as evaluate_map
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import read_regions

    if result.suffix.lower() == ".csv":
        if fdr is not None:
            raise SettingsError("--fdr is for maps, not for a table of scores", "use --rate")
        if extrapolate:
            raise SettingsError("--extrapolate is for maps, not for a table of scores", "leave it out: the table has p-values")
        if valid_for is not None:
            raise SettingsError("--valid-for is for maps, not for a table of scores", "leave it out: the table has p-values")
        if truth_downsample != 1 or exclude is not None:
            raise SettingsError("--truth-downsample and --exclude are for maps, not for a table of scores", "leave them out")
        evaluation = _evaluate_table(result, truth, rate)
    else:
        left_out = read_regions(exclude) if exclude is not None else ()
        opened = AnomalyMap.open(result)
        rate = chosen_rate(opened, rate, fdr, valid_for, extrapolate=extrapolate)
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
            raise ValueError("calibration_tiles is less than 1")
    except ValueError as err:
        raise SettingsError(f"{scores} is not a table of scores ({err})", "write one with histoad score") from err
    known = [(file, s, p) for file, s, p in rows if file is not None and file.label is not None]
    if not known:
        raise SettingsError(f"no file in {scores.name} has a label in {truth.name}", "score the tiles that this manifest lists")
    groups = np.unique([file.group for file, _, _ in known], return_inverse=True)[1]
    labels = np.array([file.label != 0 for file, _, _ in known])
    found, p_values = (np.array([row[column] for row in known]) for column in (1, 2))
    fewest = min(counts, default=None)
    classes = [file.class_name for file, _, _ in known]
    return evaluate_scores(labels, found, p_values, groups, rate=rate, calibration_tiles=fewest, classes=classes)
