"""Measure the accuracy of detectors on labelled tiles. No anomalous tile is used in training or for choosing settings.

    python benchmarks/accuracy.py --data FOLDER [--methods texture colour …] [--sets oral colon …] [--seeds 5]

FOLDER (default: HISTOAD_DATA) holds ``patches/SET/manifest.csv``. Detectors are trained on the normal tiles of 60% of the normal
groups (patients, slides, series of files), including refinement and calibration, and tested on the other normal tiles and on
all anomalous ones. Each seed has another choice of groups, the same for every method, so that methods are compared in pairs.
``new groups only`` leaves out the anomalous tiles of groups, such as patients, whose normal tiles were trained on; ``within new
groups`` compares the anomalous tiles of each such group with its own normal tiles only.

Intervals are 95% bootstrap intervals over groups of the mean over seeds. Rows are appended to a csv, and scores to a folder
beside it, as they are measured, so that a stopped run continues; the tables are printed at the end.

``detail`` is the rank correlation (Spearman) of the scores of the tested tiles with the mean gradient of their grey values:
near 1, a detector measures how much detail a tile has, and not how unusual it is. ``detail_auroc`` is the AUROC of that
gradient alone.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from grouped import draw_weights, mean_interval, parts_of, within_groups
from leaks import check_sets, set_features
from rows import append_row, read_rows
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from tile_sets import SETS, read_images, read_set

from napari_histoad.detectors import FeatureDetector, create_detector
from napari_histoad.engine import fit_job, score_images
from napari_histoad.jobs import run
from napari_histoad.tiles import TileSet

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tile_sets import TileTable

    from napari_histoad.evaluation import Interval

SMALL = 128
"""Side of the tiles of networks that are trained on pixels here; more would take too long on a CPU."""


class Method(NamedTuple):
    """A detector with settings, and the greatest side of its tiles."""

    detector: str
    settings: dict[str, object] = {}  # noqa: RUF012 - never changed
    most_px: int = 1024


# Networks train for about a minute on one core, like a first try on a laptop; far less than in their papers.
METHODS = {
    "colour": Method("colour"),
    "texture": Method("texture"),
    "texture, Mahalanobis": Method("texture", {"measure": "mahalanobis"}),
    "texture, nearest": Method("texture", {"measure": "neighbours"}),
    "embedding": Method("embedding", {"cells": 0}),
    "embedding, starter model": Method("embedding", {"backbone": "starter", "cells": 0}),
    "embedding, own encoder": Method("embedding", {"backbone": "own", "max_steps": 120}, SMALL),
    "deep isolation forest, starter model": Method("deep_isolation_forest", {"backbone": "starter"}),
    "combined": Method("combined"),
    "vqvae": Method("vqvae"),
    "vqvae, pixels": Method("vqvae", {"target": "pixels", "max_steps": 150}, SMALL),
    "vqvae, pixels, latent statistics": Method("vqvae", {"target": "pixels", "max_steps": 150, "error": "mahalanobis"}, SMALL),
    "kde_autoencoder": Method("kde_autoencoder", {"max_steps": 40}, SMALL),
    "adversarial_autoencoder": Method("adversarial_autoencoder", {"max_steps": 200}, SMALL),
    "perceptual_autoencoder": Method("perceptual_autoencoder", {"max_steps": 120}, SMALL),
    "perceptual_gan": Method("perceptual_gan", {"max_steps": 240, "input_px": 32, "widths": [16, 32, 64]}, SMALL),
    "geometric_transforms": Method("geometric_transforms", {"max_steps": 160, "widen": 2, "score_transforms": 9}, SMALL),
}
YARDSTICK = "texture"
KEY = ("method", "set", "seed", "refine", "contamination")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOAD_DATA"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--contaminate", type=float, default=0.0, help="share of anomalies mixed into the normals")
    parser.add_argument("--refine", help="leave suspicious tiles out: neighbours or svm")
    parser.add_argument("--no-leaks", dest="leaks", action="store_false", help="do not check the sets, see leaks.py")
    parser.add_argument("--out", type=Path, default=Path("accuracy.csv"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder with --data or HISTOAD_DATA")
    data, out = Path(options.data), options.out
    extra = {"refine": options.refine or "", "contamination": options.contaminate}
    done = {tuple(row[k] for k in KEY) for row in read_rows(out)}
    for name in options.sets:
        for method in options.methods:
            for seed in range(options.seeds):
                key = {"method": method, "set": name, "seed": seed, **extra}
                if tuple(str(key[k]) for k in KEY) in done:
                    continue
                row, scores = measure(METHODS[method], data, name, seed, options.contaminate, options.refine)
                path = scores_file(out, key)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, scores)
                append_row(out, {**key, **row})
                print({**key, **row}, flush=True)
        if options.leaks:
            check_sets(data, [name], options.seeds, out.with_suffix(".leaks.csv"))
    if options.leaks:
        print(check_sets(data, options.sets, options.seeds, out.with_suffix(".leaks.csv")), end="\n\n")
    print(tables(data, out))


def measure(
    method: Method, data: Path, name: str, seed: int, contamination: float, refine: str | None
) -> tuple[dict[str, object], NDArray[np.float32]]:
    """Train on 60% of the normal groups and test on the rest; return figures, and scores (N,), NaN for training tiles."""
    table = read_set(data, name)
    labels, learnt = table.labels, table.learnt(seed)
    if contamination:
        count = round(contamination / (1 - contamination) * learnt.sum())
        learnt[np.random.default_rng(seed).permutation(np.flatnonzero(labels))[:count]] = True
    images = read_images(data, name, method.most_px)
    torch.manual_seed(seed)
    detector = create_detector(method.detector, tile_px=images.shape[1], mpp=0.5, **method.settings)
    groups = np.unique(table.groups[learnt], return_inverse=True)[1].astype(np.int64)
    tiles = TileSet(images[learnt], groups, grouping="groups of tile files")
    # Features that do not depend on the split are computed once for all splits.
    fixed = isinstance(detector, FeatureDetector) and not detector.steps
    features = _features(data, name, method) if fixed else None
    start = time.monotonic()
    detector = run(
        fit_job(
            detector, tiles, seed=seed, refine=refine, features=None if features is None else features[torch.from_numpy(learnt)]
        )
    )
    seconds = time.monotonic() - start
    scores = np.full(len(labels), np.nan, np.float32)
    if features is None:
        scores[~learnt] = score_images(detector, images[~learnt])
    else:
        with torch.inference_mode():
            scores[~learnt] = detector.model.distance(features[torch.from_numpy(~learnt)]).numpy()
    truth, tested, detail = labels[~learnt], scores[~learnt], _steepness(data, name, method.most_px)[~learnt]
    p_values = detector.calibration.p_value(tested[~truth])
    return {
        "auroc": round(float(roc_auc_score(truth, tested)), 4),
        "ap": round(float(average_precision_score(truth, tested)), 4),
        "false_positives": round(float((p_values <= 0.05).mean()), 4),
        "detail": round(float(spearmanr(tested, detail).statistic), 3),
        "detail_auroc": round(float(roc_auc_score(truth, detail)), 4),
        "seconds": round(seconds, 1),
    }, scores


def _features(data: Path, name: str, method: Method) -> torch.Tensor:
    # The measure only says how distances are taken in the features.
    settings = {key: value for key, value in method.settings.items() if key != "measure"}
    return set_features(data, name, method.detector, **settings)


@lru_cache(maxsize=2)
def _steepness(data: Path, name: str, most_px: int) -> NDArray[np.float64]:
    """Return the mean gradient length of the grey values of the tiles of a set as (N,) float64."""
    return np.array([np.hypot(*np.gradient(image.mean(2))).mean() for image in read_images(data, name, most_px)])


def scores_file(out: Path, key: dict[str, object]) -> Path:
    """Return where the scores of a run are stored, beside the csv."""
    name = " ".join(str(key[k]) for k in ("method", "seed", "refine", "contamination"))
    return out.with_suffix(".scores") / str(key["set"]) / (re.sub(r"[^\w.-]+", "_", name) + ".npy")


def tables(data: Path, out: Path) -> str:
    """Return the results in Markdown: AUROC, its difference to texture, its parts, other figures."""
    rows = read_rows(out)
    names = [name for name in SETS if any(row["set"] == name for row in rows)]
    methods = list(dict.fromkeys(_title(row) for row in rows))
    runs: dict[tuple[str, str], dict[str, NDArray[np.float32]]] = {}
    for row in rows:
        runs.setdefault((_title(row), row["set"]), {})[row["seed"]] = np.load(scores_file(out, row))
    sets = {name: read_set(data, name) for name in names}
    weights = {name: draw_weights(table.labels, table.groups) for name, table in sets.items()}
    parts = {name: _parts(table) for name, table in sets.items()}
    found = {key: mean_interval(sets[key[1]].labels, list(runs[key].values()), weights[key[1]]) for key in runs}
    apart = {key: _difference(runs, key, sets[key[1]], weights[key[1]]) for key in runs}
    counted = [name for name in names if SETS[name].counted]
    lines = ["AUROC (95% interval over groups), mean over seeds:", ""]
    lines += _head(["", *(_described(sets[name]) for name in names), "mean over sets", f"lowest difference to {YARDSTICK}"])
    for method in methods:
        cells = [_shown(found.get((method, name))) for name in names]
        whole = all((method, name) in found for name in counted)
        mean = f"{np.mean([found[method, name].value for name in counted]):.3f}" if whole else "–"
        differences = {name: apart[method, name].value for name in counted if apart.get((method, name)) is not None}
        least = min(differences, key=lambda name: differences[name], default=None)
        cells += [mean, "–" if least is None or not whole else f"{differences[least]:+.3f} ({least})"]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", f"Difference in AUROC to {YARDSTICK}, paired by seed (95% interval over groups):", "", *_head(["", *names])]
    for method in methods:
        cells = [_shown(apart.get((method, name)), sign="+") for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", "AUROC of parts of the sets:", "", *_head(["", *methods])]
    for name in names:
        for part, keep in parts[name].items():
            cells = []
            for method in methods:
                scores = [_restricted(s, keep, sets[name]) for s in runs.get((method, name), {}).values()]
                cells.append(_shown(mean_interval(sets[name].labels, scores, weights[name]) if scores else None))
            lines.append(f"| {name}: {part} | " + " | ".join(cells) + " |")
        if NEW in parts[name]:
            cells = []
            for method in methods:
                scores = [_restricted(s, parts[name][NEW], sets[name]) for s in runs.get((method, name), {}).values()]
                cells.append(_shown(within_groups(sets[name].labels, sets[name].groups, scores) if scores else None))
            lines.append(f"| {name}: within new groups | " + " | ".join(cells) + " |")
    figures = ("AP", "false positives at 5%", "detail", "s")
    lines += ["", "Other figures, mean over seeds:", "", *_head(["", *(f"{n}: {' · '.join(figures)}" for n in names)])]
    for method in methods:
        cells = [_others([row for row in rows if (_title(row), row["set"]) == (method, name)]) for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _title(row: dict) -> str:
    extra = f", {float(row['contamination']):.0%} anomalies" if float(row["contamination"]) else ""
    return row["method"] + extra + (f", refined ({row['refine']})" if row["refine"] else "")


NEW = "new groups only"


def _parts(table: TileTable) -> dict[str, NDArray[np.bool_]]:
    """Return the parts of a set to be shown; that of new groups depends on the run, see `_restricted`."""
    whole = np.ones(len(table.labels), bool)
    shared = np.intersect1d(table.groups[table.labels], table.groups[~table.labels])
    return {**({NEW: whole} if len(shared) else {}), **parts_of(table.labels, table.columns)}


def _restricted(scores: NDArray[np.float32], keep: NDArray[np.bool_], table: TileTable) -> NDArray[np.float32]:
    if keep.all():
        keep = table.new_to(np.isnan(scores) & ~table.labels)
    return np.where(keep, scores, np.nan)


def _difference(runs: dict, key: tuple[str, str], table: TileTable, weights: NDArray[np.float64]) -> Interval | None:
    theirs = runs.get((YARDSTICK, key[1]), {})
    both = [seed for seed in runs[key] if seed in theirs]
    if not both:
        return None
    return mean_interval(table.labels, [runs[key][s] for s in both], weights, [theirs[s] for s in both])


def _described(table: TileTable) -> str:
    normal, anomalous = (len(np.unique(table.groups[table.labels == label])) for label in (False, True))
    return f"{table.name} ({normal} + {anomalous} groups)"


def _head(cells: list[str]) -> list[str]:
    return ["| " + " | ".join(cells) + " |", "|---" * len(cells) + "|"]


def _shown(interval: Interval | None, sign: str = "") -> str:
    return "–" if interval is None else f"{interval.value:{sign}.3f} ({interval.low:{sign}.3f} to {interval.high:{sign}.3f})"


def _others(rows: list[dict]) -> str:
    if not rows:
        return "–"
    ap, rate, detail, seconds = (np.mean([float(r[k]) for r in rows]) for k in ("ap", "false_positives", "detail", "seconds"))
    return f"{ap:.3f} · {rate:.1%} · {detail:+.2f} · {seconds:.0f}"


if __name__ == "__main__":
    main()
