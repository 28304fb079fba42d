"""Refinement: find the tiles of the "normal" regions that do not look normal, and leave them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from napari_histoad.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check_refinement", "suspicious"]

_ROUNDS = {"neighbours": 4, "svm": 10}  # by kind
_SHARE = 0.2
_FOLDS, _NEIGHBOURS = 5, 10
_NU = 0.02


def check_refinement(kind: str | None) -> None:
    """Raise a SettingsError if there is no such refinement."""
    if kind is not None and kind not in _ROUNDS:
        raise SettingsError(f"there is no refinement named {kind!r}", f"known are {', '.join(_ROUNDS)}")


def suspicious(codes: NDArray[np.float32], kind: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which tiles do not look like the others, (N,) bool.

    ``svm``: ten rounds of a one-class SVM with ν = 0.02, whose outliers are left out for good (Beggel et al. 2019,
    arXiv:1901.06355, algorithm 1, step 2, without training in between). ``neighbours``: four rounds in which the fifth of
    the tiles that lies farthest from its ten nearest neighbours among the kept tiles of other folds is left out; a tile left
    out may come back. With 5% of anomalies in the training set a fifth is not too many: the tiles in sparse places are those
    that anomalies hide among (`benchmarks/accuracy.py`).

    Parameters
    ----------
    codes : (N, D) float32
        Features in which unusual tiles lie apart.
    kind : {"neighbours", "svm"}
    rng : Generator
        Draws the folds.
    """
    mean, deviation = codes.mean(axis=0), codes.std(axis=0)
    z = (codes - mean) / (deviation + 1e-6 * (1 + np.abs(mean)))
    left_out = np.zeros(len(z), bool)
    if kind == "svm":
        for _ in range(_ROUNDS[kind]):
            kept = np.flatnonzero(~left_out)
            left_out[kept[OneClassSVM(nu=_NU, gamma="scale").fit_predict(z[kept]) < 0]] = True
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
