"""From scores to error rates, by held-out normal tiles. Plain NumPy: detectors, maps and evaluation share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import SettingsError, TooFewTilesError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["MIN_CALIBRATION_TILES", "Calibration", "discovery_rate"]

MIN_CALIBRATION_TILES = 10
_ENOUGH_TO_JUDGE = 50
_DRIFT_LOW, _DRIFT_HIGH = 0.1, 0.85


@dataclass(frozen=True)
class Calibration:
    """Scores of normal tiles that training never saw.

    Attributes
    ----------
    scores : (n,) float32, ascending

    Raises
    ------
    TooFewTilesError
        If there are fewer than 10 finite scores.

    Notes
    -----
    If normal tiles of a new slide are exchangeable with these, a tile is flagged at ``p ≤ α`` with probability at
    most α (conformal p-value; Bates et al. 2023, arXiv:2104.08279, eq. 1).
    """

    scores: NDArray[np.float32]

    @classmethod
    def from_scores(cls, scores: ArrayLike, *, robust: bool = False) -> Calibration:
        """Return the calibration of unsorted scores; NaN are dropped.

        Parameters
        ----------
        scores : (n,) array-like
        robust : bool
            Some tiles may be anomalies: leave out what lies beyond the upper outer fence, the third quartile plus three
            interquartile ranges (Tukey 1977), of the logarithms where scores are positive. Otherwise anomalies raise the
            threshold above themselves. Error rates are approximate then.
        """
        values = np.asarray(scores, np.float32).ravel()
        values = np.sort(values[np.isfinite(values)])
        if robust and len(values):
            even = np.log(np.maximum(values, np.finfo(np.float32).tiny)) if values[0] >= 0 else values
            low, high = np.quantile(even, [0.25, 0.75])
            values = values[even <= high + 3 * (high - low)]
        if len(values) < MIN_CALIBRATION_TILES:
            msg = f"only {len(values)} held-out normal tiles are left to calibrate on, {MIN_CALIBRATION_TILES} are due"
            raise TooFewTilesError(msg, "outline more normal tissue")
        return cls(values)

    @property
    def smallest_rate(self) -> float:
        """The smallest false-positive rate that so many tiles can state, 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    @property
    def default_rate(self) -> float:
        """1%, or the smallest rate that can be stated if that is more: below it nothing would ever be flagged."""
        return max(0.01, self.smallest_rate)

    def p_value(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (1 + number of normals that score at least as high) / (n + 1); NaN stays NaN."""
        values = np.asarray(scores, np.float32)
        at_least = len(self.scores) - np.searchsorted(self.scores, values, side="left")
        p = ((1 + at_least) / (len(self.scores) + 1)).astype(np.float32)
        return np.where(np.isnan(values), np.float32(np.nan), p)

    def drift(self, scores: NDArray[np.floating]) -> float | None:
        """Return the share of a slide's tiles that score above the median of the normals: about one half if they match.

        None where fewer than 50 tiles are scored.
        """
        values = np.asarray(scores)
        values = values[np.isfinite(values)]
        return float((values > np.median(self.scores)).mean()) if len(values) >= _ENOUGH_TO_JUDGE else None

    def drift_warning(self, scores: NDArray[np.floating]) -> str | None:
        """Return what to say of a slide whose scores as a whole lie elsewhere than the normals' do, or None."""
        share = self.drift(scores)
        if share is None or _DRIFT_LOW <= share <= _DRIFT_HIGH:
            return None
        side = "above" if share > 0.5 else "below"
        much = share if share > 0.5 else 1 - share
        return (
            f"{much:.0%} of the tiles score {side} the median normal tile: stain or scanner differ from the training slides', or "
            "most of this tissue is unlike them; if it is normal, recalibrate the detector on normal tissue of this site"
        )

    def threshold(self, rate: float) -> float:
        """Return t so that ``score > t`` says the same as ``p <= rate``; infinite below `smallest_rate`.

        Raises
        ------
        SettingsError
            If the rate is not in (0, 1).
        """
        if not 0 < rate < 1:
            raise SettingsError(f"a false-positive rate of {rate:g} is not between 0 and 1", "try 0.01")
        # p <= rate means that at most this many normals score at least as high.
        allowed = int(np.floor(rate * (len(self.scores) + 1) + 1e-9)) - 1
        return float("inf") if allowed < 0 else float(self.scores[len(self.scores) - 1 - allowed])


def discovery_rate(p_values: NDArray[np.floating], fdr: float) -> float:
    """Return the p-value up to which tiles may be flagged so that at most a share ``fdr`` of them is expected to be normal.

    Benjamini & Hochberg 1995; conformal p-values depend on each other in the way that it bears (Bates et al. 2023,
    arXiv:2104.08279, theorem 2).

    Parameters
    ----------
    p_values : (N,) floats
        Of all tiles of a slide; NaN are left out.
    fdr : float
        In (0, 1).

    Returns
    -------
    float
        To be used as a false-positive rate; so small that nothing is flagged where nothing stands out enough.

    Raises
    ------
    SettingsError
        If ``fdr`` is not in (0, 1).
    """
    if not 0 < fdr < 1:
        raise SettingsError(f"a false discovery rate of {fdr:g} is not between 0 and 1", "try 0.1")
    values = np.sort(np.asarray(p_values, np.float64))
    values = values[np.isfinite(values)]
    steps = fdr * np.arange(1, len(values) + 1) / max(1, len(values))
    passed = np.flatnonzero(values <= steps + 1e-9)
    return float(steps[passed[-1] if len(passed) else 0]) if len(values) else fdr
