"""Finds tiles in normal regions that do not look normal and leaves them out of training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from napari_histoad.detectors import features_of
from napari_histoad.engine._score import score_images
from napari_histoad.engine.training._gradient_descent import descend_job
from napari_histoad.errors import SettingsError
from napari_histoad.jobs import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.jobs import Job
    from napari_histoad.tiles import TileSet

_ROUNDS = {"neighbours": 4, "svm": 10}
_SHARE = 0.2
_FOLDS, _NEIGHBOURS = 5, 10
_NU = 0.02
_STEPS_PER_ROUND = 0.2  # 100 epochs after 500
_WORST = 0.8
_REPELLED = -0.05


def check_refinement(kind: str | None) -> None:
    """Raise a SettingsError if the refinement is unknown."""
    if kind is not None and kind not in _ROUNDS:
        raise SettingsError(f"there is no refinement named {kind!r}", f"known are {', '.join(_ROUNDS)}")


def passes_of(kind: str | None) -> float:
    """Return the number of training steps with a refinement, as a multiple of those without."""
    return {None: 1.0, "neighbours": 2.0}.get(kind, 2 + _ROUNDS["svm"] * _STEPS_PER_ROUND)


def stages_of(checkpoint: Path) -> list[Path]:
    """Return the checkpoint files of all stages of a training run, given that of the first."""
    rounds = [f".round{k}" for k in range(_ROUNDS["svm"])]
    return [checkpoint, *(checkpoint.with_suffix(suffix) for suffix in (*rounds, ".refined"))]


def refine_job(
    detector: Detector,
    tiles: TileSet,
    kind: str,
    choice: DeviceChoice,
    rng: np.random.Generator,
    seed: int,
    checkpoint: Path | None,
) -> Job[NDArray[np.bool_]]:
    """Return which tiles to leave out, (N,) bool; the trained network of the detector, if any, is trained further without them.

    Methods without training steps, and ``neighbours``, examine the features once, see `suspicious`. With ``svm`` a network
    follows Beggel et al. 2019 (arXiv:1901.06355, algorithm 1) after its pretraining: in each of ten rounds the outliers of a
    one-class SVM are left out for good and training continues. At the end, tiles left out whose score is above the 80th
    percentile of their scores get a small negative weight.
    """
    by_rounds = kind == "svm" and detector.steps > 0
    if by_rounds:
        left_out = np.zeros(len(tiles), bool)
        steps = max(1, round(_STEPS_PER_ROUND * detector.steps))
        for k in range(_ROUNDS[kind]):
            yield Progress("Refining", k, _ROUNDS[kind], "rounds")
            kept = np.flatnonzero(~left_out)
            features = _features(detector, tiles.images[kept], choice)
            left_out[kept[_outliers(_standardised(features))]] = True
            kept = np.flatnonzero(~left_out)
            stage = None if checkpoint is None else checkpoint.with_suffix(f".round{k}")
            yield from descend_job(detector, tiles.subset(kept), choice, rng, seed, stage, steps=steps)
    else:
        yield Progress("Refining", 0, 1, "rounds")
        left_out = suspicious(_features(detector, tiles.images, choice), kind, rng)
    if detector.steps:
        counts = np.where(left_out, 0, 1).astype(np.float32)
        if by_rounds and left_out.any():
            with choice.autocast(detector):
                detector.fit(tiles.images[~left_out], robust=True)
            scores = score_images(detector, tiles.images[left_out], choice.name)
            counts[np.flatnonzero(left_out)[scores > np.quantile(scores, _WORST)]] = _REPELLED
        rows = np.flatnonzero(counts)
        stage = None if checkpoint is None else checkpoint.with_suffix(".refined")
        yield from descend_job(detector, tiles.subset(rows), choice, rng, seed, stage, counts=counts[rows])
    return left_out


def suspicious(features: NDArray[np.float32], kind: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which tiles are unlike the others, (N,) bool, by their features (N, D) float32.

    ``svm``: ten rounds of a one-class SVM with ν = 0.02, whose outliers are left out for good. ``neighbours``: in each of four
    rounds, the fifth of the tiles with the largest mean distance to their ten nearest neighbours, among the kept tiles of other
    (random) folds, is left out; a tile may return in a later round. A fifth is more than the anomalies expected, because
    anomalies are hard to tell from rare normal tiles (`benchmarks/accuracy.py`).
    """
    z = _standardised(features)
    left_out = np.zeros(len(z), bool)
    if kind == "svm":
        for _ in range(_ROUNDS[kind]):
            kept = np.flatnonzero(~left_out)
            left_out[kept[_outliers(z[kept])]] = True
        return left_out
    for _ in range(_ROUNDS[kind]):
        fold = rng.integers(0, _FOLDS, len(z))
        distance = np.zeros(len(z))
        for k in range(_FOLDS):
            others = np.flatnonzero(~left_out & (fold != k))
            nearest = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(others))).fit(z[others])
            distance[fold == k] = nearest.kneighbors(z[fold == k])[0].mean(axis=1)
        left_out = distance > np.quantile(distance, 1 - _SHARE)
    return left_out


def _standardised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    z: NDArray[np.float32] = (features - mean) / (deviation + 1e-6 * (1 + np.abs(mean)))
    return z


def _outliers(z: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the share ν of tiles with the largest multipliers in a one-class SVM.

    The SVM's own prediction is not used: with few tiles or many features all support vectors lie on the boundary, and rounding
    decides which are predicted as outliers.
    """
    svm = OneClassSVM(nu=_NU, gamma="scale").fit(z)
    outside = np.zeros(len(z), bool)
    outside[svm.support_[np.argsort(-svm.dual_coef_[0])[: math.ceil(_NU * len(z))]]] = True
    return outside


def _features(detector: Detector, images: NDArray[np.uint8], choice: DeviceChoice) -> NDArray[np.float32]:
    """Fit a detector to tiles and return their features (N, D) float32."""

    def features_or_error(batch: torch.Tensor) -> torch.Tensor:
        found = detector.features(batch)
        if found is None:
            raise SettingsError(f"{detector.name} has no features to find suspicious tiles with", "train it without refinement")
        return found

    with choice.autocast(detector):
        detector.fit(images, robust=True)
        features: NDArray[np.float32] = features_of(features_or_error, images, choice.device).numpy()
    return features
