"""Calibration: p-values, thresholds and error rates of scores, from the scores of held-out normal tiles.

Plain NumPy, shared by detectors, maps and evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_histoad.errors import SettingsError, TooFewTilesError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LEAST_HELD_OUT",
    "MIN_CALIBRATION_TILES",
    "Calibration",
    "CalibrationBasis",
    "default_rate",
    "describe_basis",
    "discovery_rate",
    "nothing_flagged",
    "smallest_rate",
]

MIN_CALIBRATION_TILES = 10
LEAST_HELD_OUT = 13
"""From this number of tiles, the robust calibration keeps at least `MIN_CALIBRATION_TILES`, whatever their scores are."""
_SLIDES_FOR_A_NEW_ONE = 20
"""With G slides, no rate below 1 / (G + 1) is valid for a new slide (hierarchical conformal prediction: Lee, Barber & Willett
2023)."""
_ENOUGH_TO_JUDGE = 50
_DRIFT_LOW, _DRIFT_HIGH = 0.1, 0.85


Doubt = Literal["self", "refined", "mixed", "beside"]
_DOUBTS: dict[Doubt, str] = {
    "self": "the detector was trained on the mapped slide itself",
    "refined": "suspicious tiles were left out of training, and outlying scores were left out of the calibration",
    "beside": "nearly all tiles come from one place, so some held-out tiles are neighbours of training tiles",
    "mixed": "the tissue may contain lesions, and outlying scores were left out of the calibration",
}


@dataclass(frozen=True)
class CalibrationBasis:
    """The tiles that a calibration's error rates are based on; `sentence` is shown next to every rate.

    Attributes
    ----------
    grouping : str
        What a group of tiles is, as a plural noun: slides, outlines, blocks of one slide, tile files.
    outlined : bool
        Whether the normal tissue was outlined by a person, rather than all tissue of slides or all tile files being used.
    doubts : tuple of {"self", "refined", "mixed", "beside"}
        Reasons why the rates are approximate; empty if they are not.
    sources : int
        Number of slides, or sets of tile files.
    tiles, groups : int
        Numbers of held-out tiles and of their groups; set by `Calibration.from_scores`.
    """

    grouping: str
    outlined: bool = False
    doubts: tuple[Doubt, ...] = ()
    sources: int = 0
    tiles: int = 0
    groups: int = 0

    @property
    def approximate(self) -> bool:
        """Whether the rates are approximate even for tissue like that of the calibration."""
        return bool(self.doubts)

    @property
    def sentence(self) -> str:
        """What the rates are based on and what they are valid for, as one sentence without a full stop."""
        of = self.grouping if self.groups != 1 else _singular(self.grouping)
        rests = f"Rates are based on {self.tiles:,} held-out normal tiles of {self.groups:,} {of}"
        if self.sources and self.grouping in _PARTS:
            rests += " of one slide" if self.sources == 1 else f" of {self.sources:,} slides"
        if self.doubts:
            return f"{rests} and are approximate: {'; '.join(_DOUBTS[doubt] for doubt in self.doubts)}"
        if self.grouping == "slides" and self.groups >= _SLIDES_FOR_A_NEW_ONE:
            return f"{rests}: from {1 / (self.groups + 1):.1%} upwards they are valid, on average, for new slides like these"
        if self.grouping in _INDEPENDENT:
            return f"{rests}: they are valid for tiles like these if the files are independent of each other"
        like = "tissue like that outlined" if self.outlined else "tissue like that of these slides or tiles"
        few = f" (that needs {_SLIDES_FOR_A_NEW_ONE} slides)" if self.grouping == "slides" else ""
        return f"{rests}: they are valid for {like}, not for a new slide{few}"


def describe_basis(basis: CalibrationBasis | None) -> str:
    """Return the sentence on what rates are based on; for None, a sentence that says it was not recorded."""
    if basis is None:
        return "rates are based on held-out normal tiles; their slides or outlines were not recorded"
    return basis.sentence


_INDEPENDENT = ("tile files", "clusters of near-duplicate tiles")
"""Groups that may all come from one slide."""
_PARTS = ("outlines", "blocks of tissue")
"""Groups that are parts of slides."""


def _singular(plural: str) -> str:
    first, _, rest = plural.partition(" of ")
    return first.removesuffix("s") + (f" of {rest}" if rest else "")


@dataclass(frozen=True)
class Calibration:
    """Scores of normal tiles that were held out of training.

    Attributes
    ----------
    scores : (n,) float32, ascending
    basis : CalibrationBasis or None
        Which tiles they come from; None if that was not recorded.

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
    basis: CalibrationBasis | None = None

    @classmethod
    def from_scores(
        cls,
        scores: ArrayLike,
        *,
        robust: bool = False,
        groups: ArrayLike | None = None,
        basis: CalibrationBasis | None = None,
    ) -> Calibration:
        """Return the calibration for a set of scores in any order.

        Parameters
        ----------
        scores : (n,) array-like
        robust : bool
            Leave out outliers, for tiles that may include anomalies, which would raise the threshold above themselves:
            scores above the third quartile plus three interquartile ranges (upper outer fence, Tukey 1977), of their
            logarithms if all are positive. Error rates are approximate then.
        groups : (n,) array-like, optional
            The group of each tile; the number of groups is recorded in the basis.
        basis : CalibrationBasis, optional
            Its `tiles` and `groups` are set here.

        Raises
        ------
        TrainingError
            If a score is NaN or infinite.
        TooFewTilesError
            If fewer than 10 scores are left.
        """
        values = np.asarray(scores, np.float32).ravel()
        unknown = int((~np.isfinite(values)).sum())
        if unknown:
            msg = f"{unknown} of {len(values)} normal tiles have no finite score"
            raise TrainingError(msg, "train again with a lower learning rate or other settings; nothing was saved")
        kept = np.ones(len(values), bool)
        if robust and len(values):
            even = np.log(np.maximum(values, np.finfo(np.float32).tiny)) if values.min() >= 0 else values
            low, high = np.quantile(even, [0.25, 0.75])
            kept = even <= high + 3 * (high - low)
        if kept.sum() < MIN_CALIBRATION_TILES:
            msg = f"only {kept.sum()} held-out normal tiles are left to calibrate on, at least {MIN_CALIBRATION_TILES} are needed"
            raise TooFewTilesError(msg, "outline more normal tissue")
        if basis is not None:
            count = 0 if groups is None else len(np.unique(np.asarray(groups)[kept]))
            basis = replace(basis, tiles=int(kept.sum()), groups=count)
        return cls(np.sort(values[kept]), basis)

    @property
    def note(self) -> str:
        """What the rates are based on, as one sentence without a full stop."""
        return describe_basis(self.basis)

    def explain_rate(self, rate: float) -> str:
        """Return which tiles are flagged at a false-positive rate, as a sentence."""
        count = len(self.scores)
        words = f"Tiles are flagged if they score higher than all but {rate:.2%} of the {count:,} calibration tiles"
        return nothing_flagged(rate, count) or words

    @staticmethod
    def explain_discoveries(share: float, rate: float) -> str:
        """Return what a false discovery rate of ``share``, reached at the false-positive rate ``rate``, means, as a sentence."""
        return f"About {share:.1%} of the flagged tiles are expected to be normal, if the rates are valid here (p ≤ {rate:.3g})"

    @property
    def smallest_rate(self) -> float:
        """The smallest false-positive rate that n calibration tiles support, 1 / (n + 1)."""
        return smallest_rate(len(self.scores))

    @property
    def default_rate(self) -> float:
        """The false-positive rate used if none is given: 1%, or `smallest_rate` if that is larger."""
        return default_rate(len(self.scores))

    def p_value(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the conformal p-values of scores: (1 + number of normals that score at least as high) / (n + 1).

        Parameters
        ----------
        scores : (...) floats

        Returns
        -------
        (...) float32 in (0, 1]; NaN where the score is NaN

        Examples
        --------
        >>> Calibration.from_scores(range(19)).p_value(np.array([18.0, 9.0]))
        array([0.1 , 0.55], dtype=float32)
        """
        values = np.asarray(scores, np.float32)
        at_least = len(self.scores) - np.searchsorted(self.scores, values, side="left")
        p = ((1 + at_least) / (len(self.scores) + 1)).astype(np.float32)
        return np.where(np.isnan(values), np.float32(np.nan), p)

    def drift(self, scores: NDArray[np.floating]) -> float | None:
        """Return the fraction of a slide's tiles that score above the median of the normals: about 0.5 if the two match.

        None if fewer than 50 tiles are scored.
        """
        values = np.asarray(scores)
        values = values[np.isfinite(values)]
        return float((values > np.median(self.scores)).mean()) if len(values) >= _ENOUGH_TO_JUDGE else None

    def drift_warning(self, scores: NDArray[np.floating]) -> str | None:
        """Return a warning if the scores of a slide as a whole differ from those of the normals, else None."""
        share = self.drift(scores)
        if share is None or _DRIFT_LOW <= share <= _DRIFT_HIGH:
            return None
        side = "above" if share > 0.5 else "below"
        much = share if share > 0.5 else 1 - share
        return (
            f"{much:.0%} of the tiles score {side} the median normal tile: the stain or scanner differs from the training "
            "slides, or most of this tissue does; if it is normal, recalibrate the detector on normal tissue of this site"
        )

    def threshold(self, rate: float) -> float:
        """Return the score threshold t of a false-positive rate: ``score > t`` exactly if ``p <= rate``.

        It is infinite for rates below `smallest_rate`.

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


def smallest_rate(tiles: int) -> float:
    """Return the smallest false-positive rate that n calibration tiles support, 1 / (n + 1)."""
    return 1 / (tiles + 1)


def default_rate(tiles: int) -> float:
    """Return the false-positive rate used if none is given, see `Calibration.default_rate`."""
    return max(0.01, smallest_rate(tiles))


def nothing_flagged(rate: float, tiles: int) -> str:
    """Return a warning if a false-positive rate is too small for the number of calibration tiles, else ""."""
    if rate >= smallest_rate(tiles) * (1 - 1e-9):
        return ""
    return f"Nothing is flagged: {tiles:,} calibration tiles support no rate below {smallest_rate(tiles):.2%}"


def discovery_rate(p_values: NDArray[np.floating], fdr: float) -> float:
    """Return the largest p-value to flag such that at most a fraction ``fdr`` of the flagged tiles is expected to be normal.

    Benjamini & Hochberg 1995; the procedure stays valid for conformal p-values, although they depend on each other (Bates et
    al. 2023, arXiv:2104.08279, theorem 2).

    Parameters
    ----------
    p_values : (N,) floats
        Of all tiles of a slide; NaN are ignored.
    fdr : float
        The false discovery rate, in (0, 1).

    Returns
    -------
    float
        To be used as a false-positive rate; so small that nothing is flagged if no tile qualifies.

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
