"""A map against outlines, or a table of scores against labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from sklearn.metrics import average_precision_score, roc_auc_score

from napari_histoad.errors import RegionError, SettingsError
from napari_histoad.evaluation._metrics import Interval, bootstrap, f1
from napari_histoad.regions import Region, coverage, read_regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.maps import AnomalyMap

__all__ = ["Evaluation", "evaluate", "evaluate_scores"]

ANOMALOUS_COVER = 0.5
FROC_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Evaluation:
    """How well scores tell anomalous from normal tiles.

    Attributes
    ----------
    auroc, average_precision : Interval
        Of tiles; intervals by bootstrap over spatial blocks or groups.
    rate : float
        The false-positive rate that the threshold was set for.
    false_positive_rate, sensitivity, f1 : float
        Of tiles, at that threshold.
    tiles, anomalous_tiles : int
        Tiles counted. A tile is anomalous if outlines cover half of it, or if it holds half of an outline; tiles
        that an outline merely touches are left out.
    lesions, lesions_found : int or None
        Outlines, and those touched by a flagged region.
    froc : float or None
        Mean sensitivity to lesions at ¼, ½, 1, 2, 4, 8 false positives (Camelyon16; Bejnordi et al. 2017).
    """

    auroc: Interval
    average_precision: Interval
    rate: float
    false_positive_rate: float
    sensitivity: float
    f1: float
    tiles: int
    anomalous_tiles: int
    lesions: int | None = None
    lesions_found: int | None = None
    froc: float | None = None

    def rows(self) -> list[tuple[str, str]]:
        """Return (what, value) lines for people."""
        rows = [
            ("AUROC of tiles (95% interval)", str(self.auroc)),
            ("Average precision", str(self.average_precision)),
            (
                f"At a threshold of {self.rate:.1%}",
                f"sensitivity {self.sensitivity:.1%}, false positives {self.false_positive_rate:.1%}, F1 {self.f1:.3f}",
            ),
            ("Tiles", f"{self.tiles:,}, {self.anomalous_tiles:,} of them anomalous"),
        ]
        if self.lesions is not None:
            rows.append(("Known anomalies found", f"{self.lesions_found} of {self.lesions}"))
        if self.froc is not None:
            rows.append(("FROC score", f"{self.froc:.3f}"))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def evaluate(
    result: AnomalyMap,
    truth: str | PathLike[str] | Sequence[Region],
    *,
    rate: float | None = None,
    downsample: float = 1.0,
    exclude: Sequence[Region] = (),
) -> Evaluation:
    """Return how well a map finds known anomalies.

    Parameters
    ----------
    result : AnomalyMap
    truth : path-like or sequence of Region
        Outlines of the anomalies; those classed normal (or Camelyon's ``negative``) are taken as holes.
    rate : float, optional
        False-positive rate of the threshold; default: see `Calibration.default_rate`.
    downsample : float
        Divides the coordinates of an annotation file.
    exclude : sequence of Region
        Tiles that touch these are not counted, such as those a detector was trained on.

    Raises
    ------
    RegionError
        If the outlines hold no tile of the map, or all of them.
    """
    given = read_regions(truth, downsample) if isinstance(truth, str | PathLike) else list(truth)
    rate = result.calibration.default_rate if rate is None else rate
    lesions = _without_holes(given)
    scores = result.scores.astype(np.float64)
    cover = coverage(result.boxes, lesions)
    anomalous = (cover >= ANOMALOUS_COVER) | _holds_a_lesion(result, lesions)
    use = ~np.isnan(scores) & ((cover == 0) | anomalous)
    if exclude:
        use &= coverage(result.boxes, exclude) == 0
    labels = anomalous[use]
    _check(labels, result.info.slide)
    blocks = result.origins[use] // int(max(8 * result.info.tile_l0, 1))
    found = _lesions_found(result, lesions, rate)
    return _evaluate(
        labels,
        scores[use],
        result.p_values[use] <= rate,
        blocks[:, 0] * 65536 + blocks[:, 1],
        rate,
        lesions=len(lesions),
        lesions_found=found,
        froc=_froc(result, lesions),
    )


def evaluate_scores(
    labels: NDArray[np.bool_],
    scores: NDArray[np.floating],
    p_values: NDArray[np.floating],
    groups: NDArray[np.int64],
    *,
    rate: float = 0.01,
) -> Evaluation:
    """Return how well scores of tiles tell label True from False; intervals are over groups.

    Raises
    ------
    SettingsError
        If only one kind of label is there.
    """
    if not 0 < labels.sum() < len(labels):
        raise SettingsError("the labels are all alike", "the manifest needs tiles with label 0 and with label 1")
    return _evaluate(labels, scores.astype(np.float64), p_values <= rate, groups, rate)


def _evaluate(
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    flagged: NDArray[np.bool_],
    groups: NDArray[np.int64],
    rate: float,
    **lesions: Any,
) -> Evaluation:
    return Evaluation(
        auroc=bootstrap(lambda y, s: float(roc_auc_score(y, s)), labels, scores, groups),
        average_precision=bootstrap(lambda y, s: float(average_precision_score(y, s)), labels, scores, groups),
        rate=rate,
        false_positive_rate=float(flagged[~labels].mean()),
        sensitivity=float(flagged[labels].mean()),
        f1=f1(labels, flagged),
        tiles=len(labels),
        anomalous_tiles=int(labels.sum()),
        **lesions,
    )


def _without_holes(regions: Sequence[Region]) -> list[Region]:
    holes = shapely.union_all([r.geometry for r in regions if r.is_normal])
    cut = [Region(r.geometry.difference(holes), r.name) for r in regions if not r.is_normal]
    kept = [r for r in cut if not r.geometry.is_empty]
    if not kept:
        raise RegionError("the truth holds no anomalous region", "outline the anomalies and class them other than Normal")
    return kept


def _holds_a_lesion(result: AnomalyMap, lesions: Sequence[Region]) -> NDArray[np.bool_]:
    """Return which tiles hold half of an outline or more: one smaller than a tile cannot cover half of it."""
    holds = np.zeros(len(result), bool)
    tile_area = result.info.tile_l0**2
    for lesion in lesions:
        if lesion.geometry.area < tile_area:
            holds |= coverage(result.boxes, [lesion]) * tile_area >= ANOMALOUS_COVER * lesion.geometry.area
    return holds


def _check(labels: NDArray[np.bool_], name: str) -> None:
    if not labels.any():
        msg = f"no mapped tile of {name} lies in the known anomalies"
        raise RegionError(
            msg, "check that the outlines belong to this slide and level (--truth-downsample), or map with smaller tiles"
        )
    if labels.all():
        raise RegionError(f"all mapped tiles of {name} lie in the known anomalies", "map normal tissue too")


def _lesions_found(result: AnomalyMap, lesions: Sequence[Region], rate: float) -> int:
    flagged = shapely.union_all([r.geometry for r in result.regions(rate)])
    return sum(bool(r.geometry.intersects(flagged)) for r in lesions)


def _froc(result: AnomalyMap, lesions: Sequence[Region]) -> float:
    """Return the mean sensitivity over six false-positive counts; detections are score maxima, one tile apart."""
    scores, side = result.scores, result.info.tile_l0
    centres = result.origins + side / 2
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if not np.isnan(scores[i])]
    free = np.ones(len(scores), bool)
    peaks = []
    for i in order:
        if free[i]:
            peaks.append(i)
            free &= (np.abs(centres - centres[i]) > side).any(axis=1)
        if len(peaks) == 2000:
            break
    points = shapely.points(centres[peaks])
    hits = [{k for k, lesion in enumerate(lesions) if lesion.geometry.distance(p) <= side / 2} for p in points]
    found: set[int] = set()
    misses, curve = 0, []
    for hit in hits:
        if hit:
            found |= hit
        else:
            misses += 1
        curve.append((misses, len(found) / len(lesions)))
    return float(np.mean([max((s for m, s in curve if m <= rate), default=0.0) for rate in FROC_RATES]))
