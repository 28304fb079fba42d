"""Measure the accuracy of classifiers on labelled tiles, and whether the reconstruction error helps.

    python benchmarks/classifiers.py --data FOLDER [--networks texture base_cnn …] [--sets oral colon] [--side 128]

FOLDER (default: HISTOAD_DATA) holds ``patches/SET/manifest.csv``. Five folds; groups are never split. If the input includes
reconstruction or error, a VQ-VAE is trained for each fold on the normal tiles of its training part only: one that had seen
the test tiles would reconstruct them too well. Rows are appended to a csv as they are measured; the table is printed at the
end.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from rows import append_row, read_rows

from napari_histoad.classifiers import Classifier, ClassifierSettings
from napari_histoad.detectors import Detector, create_detector
from napari_histoad.engine import (
    LabelledTiles,
    TrainingSource,
    fit_classifier_job,
    fit_job,
    gather_labelled_job,
    grouped_folds,
    predict_job,
    predict_prepared,
    prepare_job,
)
from napari_histoad.evaluation import report_classes
from napari_histoad.jobs import run

SETS = {"oral": "oral_oscc", "colon": "lc25000_colon"}
INPUTS = {
    "image": ("image",),
    "image + error": ("image", "error"),
    "image + reconstruction + error": ("image", "reconstruction", "error"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOAD_DATA"))
    networks = ["texture", "base_cnn", "vggnet", "resnet18"]
    parser.add_argument("--networks", nargs="+", default=networks, help="several joined by + make an ensemble")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--side", type=int, default=128, help="tiles are read at this side")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--detector-steps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("classifiers.csv"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder with --data or HISTOAD_DATA")
    done = {(r["set"], r["network"], r["inputs"], r["side"], r["epochs"]) for r in read_rows(options.out)}
    for name in options.sets:
        source = TrainingSource(Path(options.data) / "patches" / SETS[name] / "manifest.csv")
        data = run(gather_labelled_job([source], options.side, None))
        detectors: dict[int, Detector] = {}
        for network in options.networks:
            for inputs in options.inputs:
                if (name, network, inputs, str(options.side), str(options.epochs)) in done:
                    continue
                row = measure(data, network, inputs, options, detectors)
                append_row(options.out, {"set": name, "network": network, "inputs": inputs, **row})
                print(name, network, inputs, row, flush=True)
    print(table(read_rows(options.out)))


def measure(data: LabelledTiles, network: str, inputs: str, options: argparse.Namespace, detectors: dict[int, Detector]) -> dict:
    """Cross-validate one combination."""
    settings = ClassifierSettings(
        networks=tuple(network.split("+")),
        inputs=INPUTS[inputs],
        classes=data.classes,
        tile_px=options.side,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch=options.batch,
        weighting="validation",
    )
    probabilities = np.zeros((len(data.labels), len(data.classes)), np.float32)
    started = time.monotonic()
    # Inputs that need no detector are the same in all folds and are prepared once.
    prepared = None if settings.needs_detector else run(prepare_job(Classifier(settings), data.tiles.images))
    for fold, (kept, held_out) in enumerate(grouped_folds(data.labels, data.tiles.groups, 5, 0)):
        detector = None
        if settings.needs_detector:
            if fold not in detectors:
                detectors[fold] = _detector(data, kept, options)
            detector = detectors[fold]
        torch.manual_seed(fold)
        classifier = run(fit_classifier_job(settings, data, detector=detector, rows=kept, prepared=prepared))
        if prepared is None:
            probabilities[held_out] = run(predict_job(classifier, data.tiles.images[held_out]))
        else:
            probabilities[held_out] = predict_prepared(classifier, prepared, held_out)
    report = report_classes(data.labels, probabilities, data.tiles.groups, 5)
    figures = {name: json.dumps([round(v, 4) for v in (i.value, i.low, i.high)]) for name, i in _figures(report).items()}
    return {"side": options.side, "epochs": options.epochs, **figures, "seconds": round(time.monotonic() - started)}


def _figures(report: object) -> dict:
    return {name: getattr(report, name) for name in ("accuracy", "precision", "recall", "f1", "auroc")}


def _detector(data: LabelledTiles, kept: np.ndarray, options: argparse.Namespace) -> Detector:
    normal = data.tiles.subset(kept[data.labels[kept] == 0])
    torch.manual_seed(0)
    return run(fit_job(create_detector("vqvae", target="pixels", tile_px=options.side, max_steps=options.detector_steps), normal))


def table(rows: list[dict]) -> str:
    """Return a Markdown table."""
    lines = ["| set | network | input | px | accuracy | precision | recall | F1 | AUROC (95%) | s |", "|" + "---|" * 10]
    for row in rows:
        cells = [json.loads(row[name]) for name in ("accuracy", "precision", "recall", "f1", "auroc")]
        shown = [f"{value:.3f}" for value, _, _ in cells[:-1]] + ["{:.3f} ({:.3f}–{:.3f})".format(*cells[-1])]
        lines.append(
            f"| {row['set']} | {row['network']} | {row['inputs']} | {row['side']} | {' | '.join(shown)} | {row['seconds']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
