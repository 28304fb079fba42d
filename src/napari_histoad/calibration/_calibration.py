"""The calibration of a detector: scores of held-out normal tiles, their groups, and the error rates that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_histoad.calibration._basis import REMEDY, SLIDES_FOR_A_NEW_ONE, CalibrationBasis, ValidFor, counted, describe_basis
from napari_histoad.calibration._scores import NormalScores, default_rate, left_out_rates, nothing_flagged, smallest_rate
from napari_histoad.calibration._tail import Tail, TailCheck
from napari_histoad.errors import SettingsError, TooFewTilesError, TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

MIN_CALIBRATION_TILES = 10
LEAST_HELD_OUT = 13
"""From this number of tiles, the robust calibration keeps at least `MIN_CALIBRATION_TILES`, whatever their scores are."""
_ENOUGH_TO_JUDGE = 50
_DRIFT_LOW, _DRIFT_HIGH = 0.1, 0.85
_FIELD = "field_"
_BELOW = 1 - 1e-6
"""Rates that differ by less than float32 can tell are equal."""
_NINE_TENTHS, _MANY_GROUPS = (0.05, 0.95), 20


class RateInterval(NamedTuple):
    """Rates at which the groups of a calibration are flagged, each by the threshold of the other groups.

    Attributes
    ----------
    rate : float
        The nominal false-positive rate of the threshold.
    low, high : float
        The interval that holds nine tenths of the groups; all of them if there are fewer than 20.
    groups : int
    of : str
        What a group is, as a plural noun.
    """

    rate: float
    low: float
    high: float
    groups: int
    of: str

    def __str__(self) -> str:
        share = "" if self.groups < _MANY_GROUPS else "90% of "
        nominal = f"{100 * self.rate:.3g}% nominal"
        return f"{nominal}; {100 * self.low:.1f}–{100 * self.high:.1f}% over {share}{self.groups:,} {self.of}"

    @property
    def sentence(self) -> str:
        """The interval and how it was found, as a sentence without a full stop."""
        return f"{self} (each left out of the calibration in turn)"


@dataclass(frozen=True)
class Calibration:
    """Scores of normal tiles that were held out of training, and their groups.

    Attributes
    ----------
    scores : (n,) float32, ascending
    basis : CalibrationBasis or None
        Which tiles they come from; None if that was not recorded.
    groups : (n,) int32 or None
        The group of each tile (slide, outline, block …), numbered from 0; None if that was not recorded.
    slides : (n,) int32 or None
        The slide or patient of each tile, numbered from 0; None if not known.
    valid_for : {"similar", "new-slide"}
        What p-values, thresholds and rates are valid for: tissue like that of the calibration, or a new slide.
    field : Calibration or None
        The same for the anomaly map, whose cells are means over overlapping tiles and so vary less than single tiles: its scores
        are those of cells in normal tissue. None if normal tissue was not mapped.
    extrapolated : bool
        Whether a tail that is fitted to the highest scores gives p-values finer than the tiles support, see `with_tail`.

    Raises
    ------
    TooFewTilesError
        If there are fewer than 10 finite scores.

    Notes
    -----
    For ``"similar"``, each tile counts equally: a normal tile that is exchangeable with these has ``p ≤ α`` with probability at
    most α. For ``"new-slide"``, each slide counts equally: the rate is that of normal tiles on average over new slides that are
    exchangeable with these; G slides support no rate below 1 / (G + 1). See `NormalScores`.
    """

    scores: NDArray[np.float32]
    basis: CalibrationBasis | None = None
    groups: NDArray[np.int32] | None = None
    slides: NDArray[np.int32] | None = None
    valid_for: ValidFor = "similar"
    field: Calibration | None = None
    extrapolated: bool = False

    @classmethod
    def from_scores(
        cls,
        scores: ArrayLike,
        *,
        robust: bool = False,
        groups: ArrayLike | None = None,
        slides: ArrayLike | None = None,
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
            The group of each tile.
        slides : (n,) array-like of int, optional
            The slide or patient of each tile; negative where it is not known.
        basis : CalibrationBasis, optional
            Its `tiles`, `groups` and `slides` are set here.

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
        order = np.flatnonzero(kept)[np.argsort(values[kept], kind="stable")]
        known = slides is not None and bool((np.asarray(slides) >= 0).all())
        group_of, slide_of = _numbered(groups, order), _numbered(slides if known else None, order)
        if basis is not None:
            basis = replace(basis, tiles=len(order), groups=_count(group_of), slides=_count(slide_of))
        return cls(values[order], basis, group_of, slide_of)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], basis: CalibrationBasis | None) -> Calibration:
        """Return the calibration that is stored as `arrays`; files of earlier versions hold the scores alone.

        Raises
        ------
        KeyError
            If there are no scores.
        ValueError
            If the arrays do not fit each other.
        """
        of_field = {name.removeprefix(_FIELD): values for name, values in arrays.items() if name.startswith(_FIELD)}
        arrays = {name: values for name, values in arrays.items() if not name.startswith(_FIELD)}
        scores = np.asarray(arrays["scores"], np.float32)
        if any(np.shape(values) != scores.shape for values in arrays.values()):
            raise ValueError("scores and groups of the calibration differ in number")
        order = np.argsort(scores, kind="stable")
        groups, slides = (_numbered(arrays.get(name), order) for name in ("groups", "slides"))
        field = cls.from_arrays(of_field, basis) if of_field else None
        return cls(scores[order], basis, groups, slides, field=field)

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What is stored in files, by name."""
        found: dict[str, NDArray[np.generic] | None] = {"scores": self.scores, "groups": self.groups, "slides": self.slides}
        of_field = {} if self.field is None else {f"{_FIELD}{name}": values for name, values in self.field.arrays.items()}
        return {name: values for name, values in found.items() if values is not None} | of_field

    # -- what the rates are valid for

    def made_valid_for(self, valid_for: ValidFor) -> Calibration:
        """Return this calibration with p-values, thresholds and rates for tissue like it, or for a new slide.

        Raises
        ------
        SettingsError
            If the rates shall be valid for a new slide, and the slides of the tiles are not known.
        """
        if valid_for == "new-slide" and self.slides is None:
            msg = "the slides of the calibration tiles are not known, so no error rate is valid for a new slide"
            raise SettingsError(msg, "recalibrate the detector on several slides, or use rates for similar tissue")
        field, tail = self.field and self.field.made_valid_for(valid_for), self.extrapolated and valid_for == "similar"
        return replace(self, valid_for=valid_for, field=field, extrapolated=tail)

    def covers(self, slide: str) -> bool | None:
        """Return whether the calibration has tiles of a slide, by its name; None if its slides are not known by name."""
        return slide in self.basis.names if self.basis is not None and self.basis.names else None

    def usual_validity(self, slide: str) -> ValidFor:
        """Return what rates on a slide are valid for by default: a new slide, if it is one and there are enough to compare with.

        With fewer than 20 slides, the smallest rate for a new slide would be above 5%, so rates are those for similar tissue;
        `describe` then says that they are not valid for this slide.
        """
        enough = self.basis is not None and self.basis.slides >= SLIDES_FOR_A_NEW_ONE and self.slides is not None
        return "new-slide" if enough and self.covers(slide) is False else "similar"

    @property
    def note(self) -> str:
        """What the rates are based on and what they are valid for, as one sentence without a full stop."""
        return describe_basis(self.basis)

    def describe(self, slide: str) -> str:
        """Return what the rates on a slide are based on, whether they are valid there, and else what is missing."""
        if self.basis is None:
            return self.note
        words = self.basis.describe(self.valid_for)
        if self.valid_for == "new-slide" or self.covers(slide) is not False:
            return words
        return f"{words}. {self.basis.missing or 'This slide is not among them: choose rates for a new slide'}"

    def whom(self, slide: str) -> str:
        """Return the tissue that rates are valid for, to follow "of normal tiles are flagged": "on tissue like that outlined"."""
        if self.valid_for == "new-slide":
            return "on a new slide, on average"
        like = self.basis.like if self.basis is not None else "tissue like that of the calibration"
        return f"on {like}" + (", which this slide may not be" if self.covers(slide) is False else "")

    # -- p-values and thresholds

    @cached_property
    def _normals(self) -> NormalScores:
        found = NormalScores.of(self.scores, self.slides if self.valid_for == "new-slide" else None)
        return replace(found, tail=Tail.fit(self.scores)) if self.extrapolated else found

    @property
    def units(self) -> str:
        """What counts equally, with its number: "500 calibration tiles", "25 slides"."""
        if self.valid_for == "similar":
            return f"{len(self.scores):,} calibration tiles"
        return f"{self._normals.units:,} {self._slide_noun()}"

    def _slide_noun(self) -> str:
        return counted(self.basis.slide_unit if self.basis is not None else "slides", self._normals.units)

    def explain_rate(self, rate: float) -> str:
        """Return which tiles are flagged at a false-positive rate, as a sentence."""
        if none := self.nothing_flagged(rate):
            return none
        if self.is_extrapolated(rate):
            return f"Tiles are flagged if they score above {self.threshold(rate):.4g}, by an extrapolated p-value"
        equally = ", each of which counts equally" if self.valid_for == "new-slide" else ""
        of = f"the tiles of {self.units}{equally}" if equally else f"the {self.units}"
        words = f"Tiles are flagged if they score higher than all but {rate:.2%} of {of}"
        interval = self.rate_interval(rate)
        return words if interval is None else f"{words}. {interval.sentence}"

    def nothing_flagged(self, rate: float) -> str:
        """Return a warning if a false-positive rate is too small for this calibration, else ""."""
        if self.extrapolated and rate >= self.smallest_rate * _BELOW:
            return ""
        if self.valid_for == "similar":
            return nothing_flagged(rate, self._normals.units)
        words = nothing_flagged(rate, self._normals.units, self._slide_noun())
        return words and f"{words} for a new slide; {REMEDY}"

    def rate_interval(self, rate: float) -> RateInterval | None:
        """Return the rates at which each group is flagged by the threshold of the other groups.

        Groups are slides if the rates are for a new slide; otherwise slides, outlines or blocks, as they were held out. Where the
        other groups support only a larger rate, their threshold is that of the smallest rate they support.

        Returns
        -------
        RateInterval or None
            None if the groups were not recorded, fewer than two of them have 10 tiles, or the rate is extrapolated.
        """
        new = self.valid_for == "new-slide"
        groups = self.slides if new else self.groups
        if groups is None or self.is_extrapolated(rate):
            return None
        rates = left_out_rates(self.scores, groups, rate, MIN_CALIBRATION_TILES, group_wise=new)
        if len(rates) < 2:
            return None
        low, high = np.quantile(rates, _NINE_TENTHS, method="inverted_cdf")
        plural = "groups" if self.basis is None else self.basis.slide_unit if new else self.basis.grouping
        return RateInterval(rate, float(low), float(high), len(rates), plural)

    @property
    def smallest_rate(self) -> float:
        """The smallest false-positive rate that flags anything: `supported_rate`, a tenth of it if `extrapolated`."""
        return self._normals.smallest_rate

    @property
    def supported_rate(self) -> float:
        """The smallest false-positive rate that n calibration tiles, or for a new slide n slides, support: 1 / (n + 1)."""
        return smallest_rate(self._normals.units)

    @property
    def default_rate(self) -> float:
        """The false-positive rate used if none is given: 1%, or `smallest_rate` if that is larger."""
        return default_rate(self._normals.units)

    def p_value(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the conformal p-values of scores, see `NormalScores`.

        For similar tissue: (1 + number of normals that score at least as high) / (n + 1).

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
        return self._normals.p_value(scores)

    def threshold(self, rate: float) -> float:
        """Return the score threshold t of a false-positive rate: ``score > t`` exactly if ``p <= rate``.

        It is infinite for rates below `smallest_rate`.

        Raises
        ------
        SettingsError
            If the rate is not in (0, 1).
        """
        return self._normals.threshold(rate)

    def field_threshold(self, rate: float) -> float:
        """Return the threshold of the anomaly map, at a rate that is the share of the area of normal tissue that is flagged.

        Without `field`, or where it does not support the rate, it is the threshold of single tiles, which flags less, as means
        over tiles vary less.
        """
        found = float("inf") if self.field is None else self.field.threshold(rate)
        return found if np.isfinite(found) else self.threshold(rate)

    @property
    def field_note(self) -> str:
        """What the rate says about regions, which are outlined on means over overlapping tiles; without a full stop."""
        if self.field is None:
            return "The rate is that of single tiles; regions are outlined on means over tiles and cover less of normal tissue"
        return "The rate is that of single tiles, and of the area of normal tissue that regions cover"

    # -- p-values finer than the tiles support

    @cached_property
    def tail_check(self) -> TailCheck:
        """Whether a fitted tail may be used, and why not."""
        if self.valid_for == "new-slide":
            return TailCheck("for a new slide the number of slides counts, and a tail of tiles does not replace them")
        if self.basis is not None and self.basis.doubts:
            return TailCheck("the rates are approximate already")
        return TailCheck.of(self.scores, self.groups)

    def with_tail(self, *, used: bool = True) -> Calibration:
        """Return this calibration with or without p-values that a fitted tail extrapolates, down to a tenth of `supported_rate`.

        Only p-values of scores above all calibration scores change. See `TailCheck`, which decides whether a tail is used.

        Raises
        ------
        SettingsError
            If it may not be used.
        """
        if used == self.extrapolated:
            return self
        if used and self.tail_check.problem:
            msg = f"p-values cannot be extrapolated: {self.tail_check.problem}"
            raise SettingsError(msg, f"use rates of at least {self.supported_rate:.2%}, or calibrate on more normal tissue")
        field = self.field
        if field is not None and (not used or not field.tail_check.problem):
            field = field.with_tail(used=used)
        return replace(self, extrapolated=used, field=field)

    @property
    def tail_note(self) -> str:
        """What the extrapolated p-values are based on, as a sentence without a full stop; "" if there are none."""
        if not self.extrapolated:
            return ""
        check, low, high = self.tail_check, self.smallest_rate, self.supported_rate
        return (
            f"P-values below {high:.2g} are extrapolated, down to {low:.2g}, by a generalised Pareto tail of the highest tenth "
            f"of the calibration scores (check on held-out groups: {check.found} tiles above its thresholds, "
            f"{check.expected:.1f} expected)"
        )

    def supports(self, p: ArrayLike) -> NDArray[np.bool_]:
        """Return which p-values or rates, of any shape, are at least `supported_rate`."""
        return np.asarray(np.asarray(p) >= self.supported_rate * _BELOW)

    def is_extrapolated(self, p: ArrayLike) -> NDArray[np.bool_]:
        """Return which p-values or rates, of any shape, are smaller than the tiles support and given by a fitted tail."""
        return np.asarray(self.extrapolated & (np.asarray(p) < self.supported_rate * _BELOW))

    def show_p(self, p: float) -> str:
        """Return a p-value as text, marked if it is extrapolated."""
        return f"{p:.2g}" + (" (extrapolated)" if self.is_extrapolated(p) else "")

    # -- slides that differ as a whole

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


def _numbered(groups: ArrayLike | None, order: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """Return groups of tiles in another order of the tiles, numbered from 0."""
    return None if groups is None else np.unique(np.asarray(groups).ravel()[order], return_inverse=True)[1].astype(np.int32)


def _count(groups: NDArray[np.int32] | None) -> int:
    return 0 if groups is None else int(groups.max()) + 1
