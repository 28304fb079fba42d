"""Measure whether a classifier trained on 30 verdicts finds synthetic anomalies better than the detector alone.

    python benchmarks/verdicts.py [--size-px 4096] [--verdicts 30] [--seeds 2] [--out FOLDER]

The sample slide is mapped by a VQ-VAE trained on its normal outlines. The tiles that the gallery proposes are judged by the
synthetic truth. A classifier is trained as by *Train classifier on my verdicts* and maps the slide. Both maps are compared on
the tiles that do not touch a judged one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from napari_histoad import map_slide, train
from napari_histoad.jobs import run
from napari_histoad.regions import coverage
from napari_histoad.results import Verdicts, propose_tiles, verdict_file
from napari_histoad.samples import SlidePlan, write_sample
from napari_histoad.worker.jobs import train_classifier
from napari_histoad.worker.protocol import TrainClassifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-px", type=int, default=4096)
    parser.add_argument("--verdicts", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--detector", default="vqvae")
    parser.add_argument("--no-normal", dest="normal", action="store_false", help="learn from verdicts alone")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    print("| seed | verdicts (anomalous) | detector alone, AP (AUROC) | classifier, AP (AUROC) | cross-validated AUROC |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            print(measure((options.out or Path(scratch)) / str(seed), options, seed), flush=True)


def measure(folder: Path, options: argparse.Namespace, seed: int) -> str:
    """Run the review loop once and return a row of the table."""
    plan = SlidePlan(options.size_px, seed=seed)
    slide = write_sample(folder / "sample.tif", options.size_px, seed=seed)
    model = folder / "detector.safetensors"
    train(slide, model, normal=plan.normal, detector=options.detector, tile_px=128, seed=seed)
    before = map_slide(slide, folder / "before", model=model)
    verdicts = Verdicts(verdict_file(before))
    rows = propose_tiles(before, count=options.verdicts)
    anomalous = coverage(before.boxes[rows], plan.planted) >= 0.5
    for row, bad in zip(rows, anomalous, strict=True):
        verdicts.give(tuple(before.boxes[row].tolist()), "Anomalous" if bad else "Normal")
    bundle = folder / "classifier.safetensors"
    normal = slide.with_name("sample.normal.geojson") if options.normal else None
    args = TrainClassifier(slide=str(slide), verdicts=verdicts.path, model=model, out=bundle, normal=normal)
    trained = run(train_classifier(args))
    after = map_slide(slide, folder / "after", model=bundle)
    cover = coverage(after.boxes, plan.planted)
    judged = np.zeros(len(after), bool)
    for row in rows:
        y0, x0, y1, x1 = before.boxes[row]
        b = after.boxes
        judged |= (b[:, 0] < y1) & (b[:, 2] > y0) & (b[:, 1] < x1) & (b[:, 3] > x0)
    use = ~judged & ((cover == 0) | (cover >= 0.5)) & ~np.isnan(after.scores)
    truth = cover[use] >= 0.5
    probabilities = after.probabilities[use, after.info.classes.index("Anomalous")]
    figures = [
        f"{average_precision_score(truth, s):.3f} ({roc_auc_score(truth, s):.3f})" for s in (after.scores[use], probabilities)
    ]
    return f"| {seed} | {len(rows)} ({int(anomalous.sum())}) | {figures[0]} | {figures[1]} | {trained.auroc} |"


if __name__ == "__main__":
    main()
