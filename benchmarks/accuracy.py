"""Measure the accuracy of detectors on labelled tiles. No anomalous tile is used in training or for choosing settings.

    python benchmarks/accuracy.py --data FOLDER [--methods texture colour …] [--sets oral colon malaria] [--seeds 5]

FOLDER (default: HISTOAD_DATA) holds ``patches/SET/manifest.csv``. Normal groups are split 60/40 by seed; detectors are
trained on the 60%, including refinement and calibration, and tested on the rest and on all anomalies. Rows are appended to a
csv as they are measured, so that a stopped run continues; the table is printed at the end.

``detail`` is the rank correlation (Spearman) of the scores of the tested tiles with the mean gradient of their grey values:
near 1, a detector measures how much detail a tile has, and not how unusual it is. ``detail_auroc`` is the AUROC of that
gradient alone.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rows import append_row, read_rows
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from napari_histoad.detectors import create_detector
from napari_histoad.engine import fit_job, score_images
from napari_histoad.jobs import run
from napari_histoad.tiles import TileSet, list_tile_files, read_tile_files

SETS = {"oral": ("oral_oscc", 224), "colon": ("lc25000_colon", 224), "malaria": ("malaria_cells", 64)}
SMALL = 128
"""Side of the tiles of networks that are trained here; more would take too long on a CPU."""
# Networks train for about a minute on one core, like a first try on a laptop; far less than in their papers.
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "colour": ("colour", {}),
    "texture": ("texture", {}),
    "texture, Mahalanobis": ("texture", {"measure": "mahalanobis"}),
    "texture, nearest": ("texture", {"measure": "neighbours"}),
    "embedding, starter model": ("embedding", {"backbone": "starter"}),
    "embedding, own encoder": ("embedding", {"backbone": "own", "max_steps": 120}),
    "deep isolation forest, starter model": ("deep_isolation_forest", {"backbone": "starter"}),
    "vqvae": ("vqvae", {"max_steps": 150}),
    "vqvae, latent statistics": ("vqvae", {"max_steps": 150, "error": "mahalanobis"}),
    "kde_autoencoder": ("kde_autoencoder", {"max_steps": 40}),
    "adversarial_autoencoder": ("adversarial_autoencoder", {"max_steps": 200}),
    "perceptual_autoencoder": ("perceptual_autoencoder", {"max_steps": 120}),
    "perceptual_gan": ("perceptual_gan", {"max_steps": 240, "input_px": 32, "widths": [16, 32, 64]}),
    "geometric_transforms": ("geometric_transforms", {"max_steps": 160, "widen": 2, "score_transforms": 9}),
}
KEY = ("method", "set", "seed", "refine", "contamination")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOAD_DATA"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--contaminate", type=float, default=0.0, help="share of anomalies mixed into the normals")
    parser.add_argument("--refine", help="leave suspicious tiles out: neighbours or svm")
    parser.add_argument("--out", type=Path, default=Path("accuracy.csv"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder with --data or HISTOAD_DATA")
    done = {tuple(row[k] for k in KEY) for row in read_rows(options.out)}
    for name in options.sets:
        for method in options.methods:
            detector, settings = METHODS[method]
            folder, side = SETS[name]
            trained = create_detector(detector, **settings).steps > 0
            tiles, labels = _load(Path(options.data) / "patches" / folder, min(side, SMALL) if trained else side)
            for seed in range(options.seeds):
                key = (method, name, str(seed), str(options.refine or ""), str(options.contaminate))
                if key in done:
                    continue
                row = measure(detector, settings, tiles, labels, seed, options.contaminate, options.refine)
                row = {"method": method, "set": name, "seed": seed, **row}
                append_row(options.out, row)
                print(row, flush=True)
    print(table(options.out))


_loaded: dict[tuple[Path, int], tuple[TileSet, np.ndarray]] = {}


def _load(folder: Path, side: int) -> tuple[TileSet, np.ndarray]:
    if (folder, side) not in _loaded:
        files = list_tile_files(folder / "manifest.csv")
        _loaded[folder, side] = read_tile_files(files, side), np.array([file.label for file in files])
    return _loaded[folder, side]


def measure(
    method: str, settings: dict, tiles: TileSet, labels: np.ndarray, seed: int, contamination: float, refine: str | None
) -> dict:
    """Train on 60% of the normal groups, test on the rest."""
    rng = np.random.default_rng(seed)
    groups = np.unique(tiles.groups[labels == 0])
    chosen = rng.permutation(groups)[: int(0.6 * len(groups))]
    learnt = (labels == 0) & np.isin(tiles.groups, chosen)
    tested = ~learnt
    if contamination:
        mixed = rng.permutation(np.flatnonzero(labels == 1))[: round(contamination / (1 - contamination) * learnt.sum())]
        learnt[mixed], tested[mixed] = True, False
    torch.manual_seed(seed)
    detector = create_detector(method, tile_px=tiles.images.shape[1], mpp=0.5, **settings)
    start = time.monotonic()
    extra = {"refine": refine} if refine else {}
    detector = run(fit_job(detector, tiles.subset(learnt), seed=seed, **extra))
    seconds = time.monotonic() - start
    scores = score_images(detector, tiles.images[tested])
    truth, detail = labels[tested], _steepness(tiles.images[tested])
    return {
        "auroc": round(float(roc_auc_score(truth, scores)), 4),
        "ap": round(float(average_precision_score(truth, scores)), 4),
        "false_positives": round(float((detector.calibration.p_value(scores[truth == 0]) <= 0.05).mean()), 4),
        "detail": round(float(spearmanr(scores, detail).statistic), 3),
        "detail_auroc": round(float(roc_auc_score(truth, detail)), 4),
        "seconds": round(seconds, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "refine": refine or "",
        "contamination": contamination,
    }


def _steepness(images: np.ndarray) -> np.ndarray:
    """Return the mean gradient length of the grey values of tiles (N, H, W, 3) uint8 as (N,) float64."""
    return np.array([np.hypot(*np.gradient(image.mean(2))).mean() for image in images])


def table(path: Path) -> str:
    """Return the means and deviations over seeds as a Markdown table."""
    cells: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in read_rows(path):
        extra = f", {float(row['contamination']):.0%} anomalies" if float(row["contamination"]) else ""
        extra += f", refined ({row['refine']})" if row["refine"] else ""
        cells[row["method"] + extra, row["set"]].append(row)
    sets = [name for name in SETS if any(key[1] == name for key in cells)]
    heads = [f"{name}: AUROC | AP | false positives at 5% | detail | s" for name in sets]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (1 + 5 * len(sets)) + "|"]
    for method in dict.fromkeys(key[0] for key in cells):
        parts = []
        for name in sets:
            rows = cells.get((method, name))
            if not rows:
                parts += ["–"] * 5
                continue
            shown = ("auroc", "ap", "false_positives", "detail", "seconds")
            values = {k: np.array([float(row[k]) for row in rows]) for k in shown}
            parts += [f"{values[k].mean():.3f} ± {values[k].std():.3f}" for k in ("auroc", "ap")]
            parts += [
                f"{values['false_positives'].mean():.1%}",
                f"{values['detail'].mean():+.2f}",
                f"{values['seconds'].mean():.0f}",
            ]
        lines.append(f"| {method} | " + " | ".join(parts) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
