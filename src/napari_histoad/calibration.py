"""From scores to error rates, by held-out normal tiles. Plain NumPy: detectors, maps and evaluation share it."""

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
"""Of so many tiles the robust calibration leaves `MIN_CALIBRATION_TILES` at least, whatever their scores."""
_SLIDES_FOR_A_NEW_ONE = 20
"""With G slides no rate below 1 / (G + 1) holds for a new one (hierarchical conformal prediction: Lee, Barber & Willett 2023)."""
_ENOUGH_TO_JUDGE = 50
_DRIFT_LOW, _DRIFT_HIGH = 0.1, 0.85


Doubt = Literal["self", "refined", "mixed", "beside"]
_DOUBTS: dict[Doubt, str] = {
    "self": "normal was learnt from the mapped slide itself",
    "refined": "suspicious tiles were left out of training, and what stood out was left out of the calibration",
    "beside": "nearly all tiles come from one place, so some were held out beside tiles that were learnt from",
    "mixed": "this tissue may hold lesions, and what stood out was left out of the calibration",
}


@dataclass(frozen=True)
class CalibrationBasis:
    """What the error rates of a calibration rest on; its `sentence` is shown wherever a rate is.

    Attributes
    ----------
    grouping : str
        What a group of tiles is, as a plural noun: slides, outlines, blocks of one slide, tile files.
    outlined : bool
        Whether the normal tissue was outlined by somebody, rather than all tissue of slides or tiles that are files.
    doubts : tuple of {"self", "refined", "mixed", "beside"}
        Why the rates are approximate; empty if they are not.
    sources : int
        Of how many slides, or sets of tiles.
    tiles, groups : int
        How many tiles, and of how many groups, the scores come from; filled in by `Calibration.from_scores`.
    """

    grouping: str
    outlined: bool = False
    doubts: tuple[Doubt, ...] = ()
    sources: int = 0
    tiles: int = 0
    groups: int = 0

    @property
    def approximate(self) -> bool:
        """Whether not even tissue like that of the calibration is sure to keep the rates."""
        return bool(self.doubts)

    @property
    def sentence(self) -> str:
        """What the rates rest on and what they promise, in one sentence without a full stop."""
        of = self.grouping if self.groups != 1 else _singular(self.grouping)
        rests = f"Rates rest on {self.tiles:,} held-out normal tiles of {self.groups:,} {of}"
        if self.sources and self.grouping in _PARTS:
            rests += " of one slide" if self.sources == 1 else f" of {self.sources:,} slides"
        if self.doubts:
            return f"{rests} and are approximate: {'; '.join(_DOUBTS[doubt] for doubt in self.doubts)}"
        if self.grouping == "slides" and self.groups >= _SLIDES_FOR_A_NEW_ONE:
            return f"{rests}: from {1 / (self.groups + 1):.1%} upwards they hold about for a new slide like these, on average"
        if self.grouping in _INDEPENDENT:
            return f"{rests}: they hold for tiles like these if the files are independent of each other"
        like = "tissue like that outlined" if self.outlined else "tissue like that of these slides or tiles"
        few = f"; that takes {_SLIDES_FOR_A_NEW_ONE} slides" if self.grouping == "slides" else ""
        return f"{rests}: they hold for {like}, not for a new slide{few}"


def describe_basis(basis: CalibrationBasis | None) -> str:
    """Return the sentence on what rates rest on; a neutral one where that was not recorded."""
    return (
        "rates rest on held-out normal tiles; of which slides or outlines was not recorded" if basis is None else basis.sentence
    )


_INDEPENDENT = ("tile files", "clusters of near-duplicate tiles")
"""Groups of which nothing says that they do not come from one slide."""
_PARTS = ("outlines", "blocks of tissue")
"""Groups that are parts of slides."""


def _singular(plural: str) -> str:
    first, _, rest = plural.partition(" of ")
    return first.removesuffix("s") + (f" of {rest}" if rest else "")


@dataclass(frozen=True)
class Calibration:
    """Scores of normal tiles that training never saw.

    Attributes
    ----------
    scores : (n,) float32, ascending
    basis : CalibrationBasis or None
        Where they come from; None if that was not recorded.

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
        """Return the calibration of unsorted scores.

        Parameters
        ----------
        scores : (n,) array-like
        robust : bool
            Some tiles may be anomalies: leave out what lies beyond the upper outer fence, the third quartile plus three
            interquartile ranges (Tukey 1977), of the logarithms where scores are positive. Otherwise anomalies raise the
            threshold above themselves. Error rates are approximate then.
        groups : (n,) array-like, optional
            Which group each tile belongs to, to be counted in the basis.
        basis : CalibrationBasis, optional
            Its numbers of tiles and groups are filled in here.

        Raises
        ------
        TrainingError
            If some scores are not finite.
        """
        values = np.asarray(scores, np.float32).ravel()
        unknown = int((~np.isfinite(values)).sum())
        if unknown:
            msg = f"{unknown} of {len(values)} normal tiles got no finite score"
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
        """What the rates rest on, in one sentence without a full stop."""
        return describe_basis(self.basis)

    def explain_rate(self, rate: float) -> str:
        """Return what a tile has to do to be flagged at a false-positive rate, in words that hold for every calibration."""
        count = len(self.scores)
        words = f"Flagged is what scores higher than all but {rate:.2%} of the {count:,} calibration tiles"
        return nothing_flagged(rate, count) or words

    @staticmethod
    def explain_discoveries(share: float, rate: float) -> str:
        """Return what a false discovery rate that comes to a false-positive rate means."""
        return f"About {share:.1%} of the flagged tiles are expected to be normal, as far as the rates hold (p ≤ {rate:.3g})"

    @property
    def smallest_rate(self) -> float:
        """The smallest false-positive rate that so many tiles can state, 1 / (n + 1)."""
        return smallest_rate(len(self.scores))

    @property
    def default_rate(self) -> float:
        """1%, or the smallest rate that can be stated if that is more: below it nothing would ever be flagged."""
        return default_rate(len(self.scores))

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


def smallest_rate(tiles: int) -> float:
    """Return the smallest false-positive rate that so many calibration tiles can state, 1 / (n + 1)."""
    return 1 / (tiles + 1)


def default_rate(tiles: int) -> float:
    """Return the false-positive rate that is meant where none is given, see `Calibration.default_rate`."""
    return max(0.01, smallest_rate(tiles))


def nothing_flagged(rate: float, tiles: int) -> str:
    """Return a sentence if a false-positive rate is below what so many calibration tiles can state, else ""."""
    if rate >= smallest_rate(tiles) * (1 - 1e-9):
        return ""
    return f"Nothing is flagged: {tiles:,} calibration tiles state no rate below {smallest_rate(tiles):.2%}"


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
