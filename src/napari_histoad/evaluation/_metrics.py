"""Metrics with confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def group_draws(
    labels: NDArray[np.bool_], groups: NDArray[np.int64], *, draws: int = 300, seed: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Yield how often each tile occurs in each of ``draws`` bootstrap samples of whole groups, (N,) int64.

    Groups with only normal tiles, with only anomalous ones and with both are drawn with replacement, each kind among themselves,
    so every sample has as many groups of each kind as the data.

    Parameters
    ----------
    labels : (N,) bool
    groups : (N,) int
        Slide, patient or spatial block of each tile.
    draws, seed : int
        Number of samples, and their seed.
    """
    rng = np.random.default_rng(seed)
    names, of_tile = np.unique(groups, return_inverse=True)
    kind = np.zeros(len(names), np.int64)
    np.bitwise_or.at(kind, of_tile, np.where(labels, 2, 1))
    kinds = [np.flatnonzero(kind == k) for k in np.unique(kind)]
    for _ in range(draws):
        times = np.zeros(len(names), np.int64)
        for members in kinds:
            times[members] = np.bincount(rng.integers(0, len(members), len(members)), minlength=len(members))
        yield times[of_tile]


def bootstrap(
    metric: Callable[[NDArray[np.bool_], NDArray[np.float64]], float],
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    groups: NDArray[np.int64],
    *,
    draws: int = 300,
    seed: int = 0,
) -> Interval:
    """Return a metric with its 95% percentile bootstrap interval, resampling whole groups, see `group_draws`.

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

    Notes
    -----
    With fewer than about ten groups of a kind, the interval is too narrow; with one, it does not vary over that kind at all.
    """
    values = []
    rows = np.arange(len(labels))
    for times in group_draws(labels, groups, draws=draws, seed=seed):
        drawn = np.repeat(rows, times)
        if 0 < labels[drawn].sum() < len(drawn):
            values.append(metric(labels[drawn], scores[drawn]))
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
