"""Splits by group, and figures of labelled scores with intervals over groups."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.evaluation import Interval, group_draws

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["choose_groups", "draw_weights", "mean_interval", "parts_of", "weighted_auroc", "within_groups"]

_LISTED = 1000


def choose_groups(groups: NDArray[np.str_], seed: int, share: float = 0.6) -> NDArray[np.str_]:
    """Return the names of the groups to train on: ``share`` of them, rounded down, another choice for each seed.

    Where there are at most 1,000 choices, seeds take them in a shuffled order, so that none comes twice before all have come.
    """
    names = np.unique(groups)
    count = max(1, int(share * len(names)))
    if comb(len(names), count) > _LISTED:
        return np.sort(np.random.default_rng(seed).permutation(names)[:count])
    choices = list(combinations(names.tolist(), count))
    order = np.random.default_rng(0).permutation(len(choices))
    return np.array(choices[order[seed % len(choices)]])


def draw_weights(labels: NDArray[np.bool_], groups: NDArray[np.str_], draws: int = 500) -> NDArray[np.float64]:
    """Return how often each tile counts in each bootstrap sample of whole groups, (draws, N)."""
    ids = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return np.array(list(group_draws(labels, ids, draws=draws)), np.float64)


def weighted_auroc(labels: NDArray[np.bool_], scores: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the AUROC for each row of weights, (draws,); NaN where all normal or all anomalous tiles have weight 0.

    Parameters
    ----------
    labels : (N,) bool
    scores : (N,) float
    weights : (draws, N) float64
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # equal scores count as one step of the curve
    normal = np.add.reduceat(np.where(labels, 0, weights)[:, order], starts, axis=1)
    anomalous = np.add.reduceat(np.where(labels, weights, 0)[:, order], starts, axis=1)
    below = np.cumsum(normal, axis=1) - normal / 2
    with np.errstate(invalid="ignore"):
        return (anomalous * below).sum(1) / (anomalous.sum(1) * normal.sum(1))


def mean_interval(
    labels: NDArray[np.bool_],
    runs: Sequence[NDArray[np.floating]],
    weights: NDArray[np.float64],
    than: Sequence[NDArray[np.floating]] | None = None,
) -> Interval:
    """Return the mean AUROC over runs with its 95% interval; with ``than``, the mean difference to paired runs.

    A group counts equally often in all runs of a sample, and in both runs of a pair, so that what all of them share cancels.

    Parameters
    ----------
    labels : (N,) bool
    runs : sequence of (N,) float
        Scores by run; NaN for tiles that the run was trained on or that are left out.
    weights : (draws, N) float64
        From `draw_weights`.
    than : sequence of (N,) float, optional
        Scores of the paired runs.
    """
    ones = np.ones((1, len(labels)))
    values = []
    for k, scores in enumerate(runs):
        tested = ~np.isnan(scores)
        drawn = np.concatenate([ones, weights])[:, tested]
        found = weighted_auroc(labels[tested], scores[tested], drawn)
        values.append(found if than is None else found - weighted_auroc(labels[tested], than[k][tested], drawn))
    by_run = np.array(values)
    counted = ~np.isnan(by_run)
    means = np.where(counted, by_run, 0).sum(0) / np.maximum(counted.sum(0), 1)
    means[~counted.any(0)] = np.nan
    low, high = np.nanquantile(means[1:], (0.025, 0.975))
    return Interval(float(means[0]), float(low), float(high))


def within_groups(
    labels: NDArray[np.bool_], groups: NDArray[np.str_], runs: Sequence[NDArray[np.floating]], draws: int = 500
) -> Interval | None:
    """Return the AUROC that compares anomalous tiles with normal ones of the same group only, mean over groups, then over runs.

    What a whole group has in common, such as its stain, has no effect. The interval is a bootstrap interval over groups; None if
    no run has a group with both labels.

    Parameters
    ----------
    labels : (N,) bool
    groups : (N,) str
    runs : sequence of (N,) float
        Scores by run; NaN for tiles that are left out.
    draws : int
        Number of bootstrap samples.
    """
    names, of_tile = np.unique(groups, return_inverse=True)
    by_run = np.full((len(runs), len(names)), np.nan)
    for k, scores in enumerate(runs):
        for group in range(len(names)):
            mine = (of_tile == group) & ~np.isnan(scores)
            if 0 < labels[mine].sum() < mine.sum():
                by_run[k, group] = weighted_auroc(labels[mine], scores[mine], np.ones((1, int(mine.sum()))))[0]
    by_run = by_run[:, ~np.isnan(by_run).all(0)]
    if not by_run.size:
        return None
    rng = np.random.default_rng(0)
    times = np.array(
        [np.bincount(rng.integers(0, by_run.shape[1], by_run.shape[1]), minlength=by_run.shape[1]) for _ in range(draws)]
    )
    weights = np.concatenate([np.ones((1, by_run.shape[1])), times])
    known = ~np.isnan(by_run)
    counted = weights @ known.T
    sums = np.divide(weights @ np.where(known, by_run, 0).T, counted, out=np.full(counted.shape, np.nan), where=counted > 0)
    means = np.nanmean(sums[counted.any(1)], axis=1)
    low, high = np.quantile(means[1:], (0.025, 0.975))
    return Interval(float(means[0]), float(low), float(high))


def parts_of(labels: NDArray[np.bool_], columns: Mapping[str, NDArray[np.str_]]) -> dict[str, NDArray[np.bool_]]:
    """Return the parts of a set to be measured by themselves, by name; each is a mask (N,) over its tiles.

    For each value of a column that only some normal or only some anomalous tiles have, the part holds the tiles with that
    value; and all tiles of the other label, if none of them has it.
    """
    parts = {}
    for column, values in columns.items():
        for value in np.unique(values[values != ""]):
            has = values == value
            mine = [has & (labels == label) for label in (False, True)]
            if all(not m.any() or m.sum() == (labels == label).sum() for m, label in zip(mine, (False, True), strict=True)):
                continue
            whole = [m if m.any() else labels == label for m, label in zip(mine, (False, True), strict=True)]
            parts[f"{column} {value}"] = whole[0] | whole[1]
    return parts
