"""Metrics with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Interval", "bootstrap", "f1"]


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval.

    Attributes
    ----------
    value, low, high : float
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(
    metric: Callable[[NDArray[np.bool_], NDArray[np.float64]], float],
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    groups: NDArray[np.int64],
    *,
    draws: int = 300,
    seed: int = 0,
) -> Interval:
    """Return a metric with its 95% percentile bootstrap interval, resampling whole groups.

    Neighbouring tiles are similar; resampling single tiles would give intervals that are far too narrow.

    Parameters
    ----------
    metric : callable
        Function of (labels, scores).
    labels : (N,) bool
    scores : (N,) float
    groups : (N,) int
        Slide, patient or spatial block of each tile.
    draws, seed : int
        Number of resamples, and their seed.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    values = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if 0 < labels[rows].sum() < len(rows):
            values.append(metric(labels[rows], scores[rows]))
    value = float(metric(labels, scores))
    if not values:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(value, float(low), float(high))


def f1(labels: NDArray[np.bool_], flagged: NDArray[np.bool_]) -> float:
    """Return the F1 score of flags; 0 if nothing is flagged or anomalous."""
    hits = float((labels & flagged).sum())
    total = float(labels.sum() + flagged.sum())
    return 2 * hits / total if total else 0.0
