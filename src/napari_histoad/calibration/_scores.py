"""Conformal p-values and thresholds from the scores of normal tiles, each tile or each group of tiles counted equally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.calibration._tail import FINER, Tail
from napari_histoad.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_USUAL_RATE = 0.01
_ROUNDING = 1e-9
_ROWS = 256
_QUANTILE = np.exp(-1)


@dataclass(frozen=True)
class NormalScores:
    """Scores of normal tiles and the p-values that they give, with every tile or every group counted equally.

    Attributes
    ----------
    scores : (n,) float32, ascending
    p : (n + 1,) float64
        The p-value of a score that is above all scores before position i, and not above the others.
    units : int
        Number of tiles, or of groups, that count equally.
    tail : Tail or None
        Gives scores above all of these a p-value smaller than these support, but at least a tenth of it.

    Notes
    -----
    With every tile counted equally, p = (1 + number of normal tiles that score at least as high) / (n + 1): the conformal p-value
    of a tile that is exchangeable with these (Bates et al. 2023, arXiv:2104.08279, eq. 1).

    With every one of G groups counted equally, one tile is drawn from each: (1 + number of drawn tiles that score at least as
    high) / (G + 1) is a valid p-value for a tile of a new group, however alike the tiles of a group are (Dunn, Wasserman & Ramdas
    2022, arXiv:1809.07441). Of the p-values of all draws, p is the 1/e quantile: computed, not drawn, as the number is Poisson
    binomial. That quantile makes it exact where the tiles of a group are not alike at all, and where they are all equal; with 20
    groups and a nominal 5%, it flagged 4.5 to 5.4% in simulations in between (3,000 draws of normal scores). The mean of the
    p-values (Lee, Barber & Willett 2023, arXiv:2306.06342) is proved never to flag more than stated, but flags 0.6% there.
    """

    scores: NDArray[np.float32]
    p: NDArray[np.float64]
    units: int
    tail: Tail | None = None

    @classmethod
    def of(cls, scores: NDArray[np.float32], groups: NDArray[np.integer] | None = None) -> NormalScores:
        """Return ascending scores with every tile counted equally, or every group if the group of each tile is given."""
        if groups is None:
            n = len(scores)
            return cls(scores, np.arange(n + 1, 0, -1) / (n + 1), n)
        number = np.unique(groups, return_inverse=True)[1]
        sizes = np.bincount(number)
        at_least = np.zeros((len(scores) + 1, len(sizes)), np.int32)
        at_least[np.arange(len(scores)), number] = 1
        at_least = np.cumsum(at_least[::-1], axis=0)[::-1]
        return cls(scores, (1 + _successes(at_least / sizes)) / (len(sizes) + 1), len(sizes))

    @property
    def smallest_rate(self) -> float:
        """The smallest p-value that these scores can give: 1 / (units + 1), a tenth of it with a tail."""
        return smallest_rate(self.units) / (1 if self.tail is None else FINER)

    def p_value(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the p-values of scores of any shape, float32 in (0, 1]; NaN where the score is NaN."""
        values = np.asarray(scores, np.float32)
        p = self.p[np.searchsorted(self.scores, values, side="left")].astype(np.float32)
        if self.tail is not None:
            finer = np.clip(self.tail.p_value(values), self.smallest_rate, smallest_rate(self.units))
            p = np.where(values > self.scores[-1], finer, p).astype(np.float32)
        return np.where(np.isnan(values), np.float32(np.nan), p)

    def threshold(self, rate: float) -> float:
        """Return the threshold t for which ``score > t`` exactly if ``p <= rate``; infinite for rates below `smallest_rate`.

        Raises
        ------
        SettingsError
            If the rate is not in (0, 1).
        """
        if not 0 < rate < 1:
            raise SettingsError(f"a false-positive rate of {rate:g} is not between 0 and 1", "try 0.01")
        if self.tail is not None and self.smallest_rate * (1 - _ROUNDING) <= rate < smallest_rate(self.units) * (1 - _ROUNDING):
            return max(self.tail.score_of(rate), float(self.scores[-1]))
        above = np.flatnonzero(self.p * (self.units + 1) > rate * (self.units + 1) + _ROUNDING)
        return float("inf") if len(above) == len(self.p) else float(self.scores[above[-1]])


def _successes(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 1/e quantile of the number of successes in independent trials, (m,), given the chance of each, (m, G)."""
    found: NDArray[np.float64] = np.rint(chances.sum(axis=1))
    uncertain = np.flatnonzero(((chances > 0) & (chances < 1)).any(axis=1))
    for first in range(0, len(uncertain), _ROWS):
        rows = uncertain[first : first + _ROWS]
        most = int(found[rows].max()) + 1  # the quantile is at most the median, which is next to the mean
        exactly = np.zeros((len(rows), most + 1))  # the chance of 0, 1, … successes in the trials so far
        exactly[:, 0] = 1
        for chance in chances[rows].T[..., None]:
            more = exactly[:, :-1] * chance
            exactly *= 1 - chance
            exactly[:, 1:] += more
        found[rows] = (np.cumsum(exactly, axis=1) < _QUANTILE).sum(axis=1)
    return found


def left_out_rates(
    scores: NDArray[np.float32], groups: NDArray[np.integer], rate: float, least: int, *, group_wise: bool
) -> NDArray[np.float64]:
    """Return for each group the share of its tiles that the threshold of the other groups flags.

    Parameters
    ----------
    scores : (n,) float32, ascending
    groups : (n,) int
    rate : float
        False-positive rate of the threshold; where the other groups support only a larger one, that is used.
    least : int
        Groups with fewer tiles set thresholds for the others, but have no share of their own.
    group_wise : bool
        Whether the groups count equally for the threshold, instead of the tiles.

    Returns
    -------
    (G,) float64
        Empty if there is a single group.
    """
    sizes = np.bincount(groups)
    shares = []
    for group in np.flatnonzero(sizes >= least):
        mine = groups == group
        if mine.all():
            break
        others = NormalScores.of(scores[~mine], groups[~mine] if group_wise else None)
        shares.append((scores[mine] > others.threshold(max(rate, others.smallest_rate))).mean())
    return np.array(shares)


def smallest_rate(units: int) -> float:
    """Return the smallest false-positive rate that n calibration tiles, or groups that count equally, support: 1 / (n + 1)."""
    return 1 / (units + 1)


def default_rate(units: int) -> float:
    """Return the false-positive rate used if none is given: 1%, or `smallest_rate` if that is larger."""
    return max(_USUAL_RATE, smallest_rate(units))


def nothing_flagged(rate: float, units: int, what: str = "calibration tiles") -> str:
    """Return a warning if a false-positive rate is too small for n calibration tiles, or for n groups named ``what``, else ""."""
    if rate >= smallest_rate(units) * (1 - _ROUNDING):
        return ""
    return f"Nothing is flagged: {units:,} {what} support no rate below {smallest_rate(units):.2%}"
