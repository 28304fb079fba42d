"""Train the starter model that is part of the package, and write its model card with measured AUROCs.

    python tools/train_starter.py [--data FOLDER] [--steps 3000]

The data folder (default: the environment variable HISTOAD_DATA) holds ``patches/oral_oscc`` (CC0) and
``slides/CMU-1-Small-Region.svs`` (CC0); only the trained weights become part of the package.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import create_detector, save_detector, starter_path
from napari_histoad.engine import TrainingSource, fit_job, gather_job, score_images
from napari_histoad.jobs import Progress, run
from napari_histoad.tiles import TileSet, list_tile_files, read_tile_files

TILE_PX = 256
SCORES = ("mean", "mahalanobis")


def show(progress: Progress) -> None:
    if progress.done % 200 == 0:
        print(progress.stage, progress.done, progress.total, {k: round(v, 4) for k, v in progress.metrics.items()}, flush=True)


def train(tiles: TileSet, steps: int, seed: int):
    torch.manual_seed(seed)
    detector = create_detector("vqvae", tile_px=TILE_PX, mpp=0.5, max_steps=steps)
    return run(fit_job(detector, tiles, seed=seed), show)


def auroc(detector, normal: np.ndarray, anomalous: np.ndarray) -> float:
    scores = score_images(detector, np.concatenate([normal, anomalous]))
    return float(roc_auc_score(np.r_[np.zeros(len(normal)), np.ones(len(anomalous))], scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOAD_DATA"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--split-steps", type=int, default=800)
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder with --data or HISTOAD_DATA")
    files = list_tile_files(Path(options.data) / "patches/oral_oscc/manifest.csv")
    oral = read_tile_files(files, TILE_PX)
    labels = np.array([file.label for file in files])
    skin_source = TrainingSource(Path(options.data) / "slides/CMU-1-Small-Region.svs")
    skin, _ = run(gather_job([skin_source], TILE_PX, 0.5))
    normals = np.flatnonzero(labels == 0)
    table: dict[str, list[float]] = {"colour": [], **{kind: [] for kind in SCORES}}
    for split in range(options.splits):
        groups = np.unique(oral.groups[normals])
        kept = np.random.default_rng(split).permutation(groups)[: int(0.6 * len(groups))]
        learnt = normals[np.isin(oral.groups[normals], kept)]
        tested = np.setdiff1d(normals, learnt)
        tiles = TileSet.concatenate([oral.subset(learnt), skin])
        colour = create_detector("colour", tile_px=TILE_PX)
        colour.fit(oral.images[learnt])
        table["colour"].append(auroc(colour, oral.images[tested], oral.images[labels == 1]))
        trained = train(tiles, options.split_steps, split)
        for kind in SCORES:
            trained.settings = trained.settings.model_copy(update={"error": kind})
            if kind == "mahalanobis":
                trained.fit(oral.images[learnt])
            table[kind].append(auroc(trained, oral.images[tested], oral.images[labels == 1]))
        print("split", split, {name: round(values[-1], 3) for name, values in table.items()}, flush=True)
    starter = train(TileSet.concatenate([oral.subset(normals), skin]), options.steps, 0)
    starter.trained_on = ("oral mucosa (174 photographs, CC0)", "CMU-1-Small-Region (skin, CC0)")
    assert isinstance(starter.calibration, Calibration)
    path = save_detector(starter, starter_path())
    figures = {name: f"{np.mean(values):.2f} ± {np.std(values):.2f}" for name, values in table.items()}
    card = CARD.format(
        size=path.stat().st_size / 1e6, steps=options.steps, splits=options.splits, split_steps=options.split_steps, **figures
    )
    (path.parent / "README.md").write_text(card, encoding="utf-8")
    print(card)


CARD = """# Starter model: `starter-conv-32.safetensors`

A `conv-32` VQ-VAE ({size:.1f} MB) so that **Compute anomaly map** works at the first click. It is a starting point,
**not a diagnosis** and not a detector of cancer: train on normal tissue of your own stain, scanner and organ.

| | |
|---|---|
| Trained on | 174 photographs of normal oral mucosa, H&E, 100x and 400x (Kaggle oral histology, CC0), and the tissue of `CMU-1-Small-Region.svs`, H&E skin at 0.5 µm/px (OpenSlide test data, CC0) |
| How | `tools/train_starter.py`, {steps} steps of 16 tiles, 256 px |
| Used as | an encoder: without a trained detector, the mean and spread of its latents over a tile are compared with those of the slide's own tissue (robust Gaussian, squared Mahalanobis distance) |
| Licence | BSD-3-Clause, as the package |

Measured on oral mucosa, AUROC of normal against carcinoma, fitted on 60% of the normal groups, {splits} splits, mean ± sd
(networks of {split_steps} steps trained on each split's normals and the skin, so that no tested image was seen):

| score | AUROC |
|---|---|
| colour baseline: Gaussian on mean and deviation of R, G, B and the white fraction | {colour} |
| reconstruction error (`error="mean"`) | {mean} |
| latent statistics (`error="mahalanobis"`) | {mahalanobis} |

Few slides, two organs, two laboratories: expect it to be weaker on other tissue. Anomalies that the training tissue
resembles, and slides that are abnormal throughout, are not found.
"""

if __name__ == "__main__":
    main()
