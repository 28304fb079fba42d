"""A tail fitted to the highest scores of normal tiles: p-values finer than their number supports, marked as extrapolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINER = 10
"""How much finer p-values of a tail are than the smallest one of the tiles, at most."""
_SHARE, _LARGEST_SHAPE = 0.1, 0.9
_LEAST_TILES = 500
_FOLDS = 5
_CHECKED = 4
"""How much finer than the tiles of a fold support the rate is that its tail is checked at: five tiles are expected above it."""
_TOLERATED = 2


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto distribution of the scores above a high threshold.

    Attributes
    ----------
    start : float
        The threshold; a tenth of the normal tiles score higher.
    share : float
        The share of the normal tiles above it.
    scale : float
        Of the excess over `start`, in units of the score; greater than 0.
    shape : float
        From 0, the exponential distribution, to 0.9. Never negative, so that no score is impossible for a normal tile.

    Notes
    -----
    Fitted by probability-weighted moments, which are steadier than maximum likelihood on few scores, and made cautious: the shape
    is one standard error above its estimate (Hosking & Wallis 1987, Technometrics 29, 339–349), the mean excess is kept. With
    the estimate itself, tails as heavy as a log-normal's are flagged twice as often as stated, see benchmarks/RESULTS.md.
    """

    start: float
    share: float
    scale: float
    shape: float

    @classmethod
    def fit(cls, scores: NDArray[np.float32]) -> Tail | None:
        """Return the tail of ascending scores, (n,) float32; None if its scores are equal or infinitely spread."""
        above = int(_SHARE * len(scores))
        if above < 2:
            return None
        start = float(scores[-above - 1])
        excess = scores[-above:].astype(np.float64) - start
        mean = float(excess.mean())
        weighted = float((excess * np.arange(above)[::-1]).mean()) / (above - 1)
        if weighted <= 0 or mean <= 2 * weighted:
            return None
        shape = 2 - mean / (mean - 2 * weighted)
        x = min(max(shape, -0.45), 0.45)  # the standard error is finite below a half
        variance = (1 - x) * (1 - x + 2 * x * x) * (2 - x) ** 2 / ((1 - 2 * x) * (3 - 2 * x))
        shape = min(max(shape + float(np.sqrt(variance / above)), 0), _LARGEST_SHAPE)
        return cls(start, above / len(scores), mean * (1 - shape), shape)

    def p_value(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the share of normal tiles expected to score at least as high, for scores of at least `start`."""
        excess = np.maximum(np.asarray(scores, np.float64) - self.start, 0) / self.scale
        if not self.shape:
            return np.asarray(self.share * np.exp(-excess))
        return np.asarray(self.share * (1 + self.shape * excess) ** (-1 / self.shape))

    def score_of(self, rate: float) -> float:
        """Return the score that a share ``rate`` of normal tiles is expected to reach; ``rate`` is at most `share`."""
        odds = rate / self.share
        excess = -np.log(odds) if not self.shape else (odds**-self.shape - 1) / self.shape
        return float(self.start + self.scale * excess)


@dataclass(frozen=True)
class TailCheck:
    """Whether tails that are fitted to some groups hold on the tiles of the others.

    Each fifth of the groups in turn fits a tail and sets a threshold at a quarter of the smallest rate that its tiles support.
    Over the five, about five tiles of other groups are expected above these thresholds. With more than twice as many, as where
    groups differ or the tail is heavier than fitted, p-values are not extrapolated.

    Attributes
    ----------
    problem : str
        Why p-values are not extrapolated; empty if they are.
    expected : float
        Number of tiles that were expected above the thresholds.
    found : int
        Number of tiles above them.
    """

    problem: str
    expected: float = 0
    found: int = 0

    @classmethod
    def of(cls, scores: NDArray[np.float32], groups: NDArray[np.integer] | None) -> TailCheck:
        """Check the tail of ascending scores, (n,) float32, of groups, (n,) int from 0."""
        if len(scores) < _LEAST_TILES:
            return cls(f"{len(scores):,} calibration tiles are too few, at least {_LEAST_TILES} are needed")
        if groups is None:
            return cls("the groups of the calibration tiles were not recorded, so a tail cannot be checked")
        fold = _folds(groups)
        if fold is None:
            few = f"the calibration tiles come from {len(np.unique(groups))} groups"
            return cls(f"{few}, and a tail is checked on {_FOLDS} parts of about the same size")
        expected, found = 0.0, 0
        tails = [Tail.fit(scores), *(Tail.fit(scores[fold == k]) for k in range(_FOLDS))]
        if None in tails:
            return cls("the highest calibration scores are too much alike to fit a tail")
        for k, tail in enumerate(filter(None, tails[1:])):
            mine, others = scores[fold == k], scores[fold != k]
            rate = 1 / (_CHECKED * (len(mine) + 1))
            found += int((others > max(tail.score_of(rate), float(mine[-1]))).sum())
            expected += rate * len(others)
        if found > _TOLERATED * expected:
            words = f"on held-out groups, {found} tiles score above fitted thresholds, {expected:.1f} were expected"
            return cls(words, expected, found)
        return cls("", expected, found)


def _folds(groups: NDArray[np.integer]) -> NDArray[np.int64] | None:
    """Return the fold of each tile; groups stay whole, and folds are filled evenly. None if one would have hardly any tiles."""
    sizes = np.bincount(groups)
    filled, fold = np.zeros(_FOLDS, np.int64), np.zeros(len(sizes), np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold[group] = filled.argmin()
        filled[fold[group]] += sizes[group]
    return fold[groups] if filled.min() >= len(groups) / (2 * _FOLDS) else None
