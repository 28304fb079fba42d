"""Compares a map with outlined anomalies, or tile scores with labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from sklearn.metrics import average_precision_score, roc_auc_score

from napari_histoad.calibration import default_rate, nothing_flagged
from napari_histoad.errors import RegionError, SettingsError
from napari_histoad.evaluation._by_class import figures_by_class
from napari_histoad.evaluation._localise import (
    binned_auroc,
    binned_average_precision,
    binned_interval,
    cell_scores,
    detect,
)
from napari_histoad.evaluation._metrics import Interval, bootstrap, f1
from napari_histoad.regions import Annotations, Region, count_classes, coverage, outside_note, read_annotations
from napari_histoad.results import measure_regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.evaluation._by_class import ClassFigures
    from napari_histoad.maps import AnomalyMap

ANOMALOUS_COVER = 0.5


@dataclass(frozen=True)
class Evaluation:
    """How well scores separate anomalous from normal tiles.

    Attributes
    ----------
    auroc, average_precision : Interval
        Over tiles; bootstrap intervals over spatial blocks or groups.
    rate : float
        False-positive rate that defines the threshold.
    false_positive_rate, sensitivity, f1 : float
        Over tiles, at that threshold.
    tiles, anomalous_tiles : int
        Number of tiles. A tile is anomalous if outlines cover at least half of it, or if it contains at least half of an
        outline; other tiles that overlap an outline are left out.
    groups : int
        Number of spatial blocks or groups that the intervals are over.
    lesions, lesions_found : int or None
        Number of outlined anomalies, and of those that a flagged region overlaps.
    false_regions_per_mm2 : float or None
        Number of flagged regions that overlap no outlined anomaly, per mm² of normal tissue.
    area_flagged, normal_area_flagged : float or None
        Share of the area of the anomalies, and of normal tissue, that is flagged. A region that covers the slide overlaps every
        anomaly, so read these beside ``lesions_found``.
    froc : float or None
        Mean lesion sensitivity at ¼, ½, 1, 2, 4 and 8 false positives (Camelyon16; Bejnordi et al. 2017).
    found_per_mm2 : dict[float, float]
        Lesion sensitivity by number of false positives per mm² of normal tissue.
    cell_auroc, cell_average_precision : Interval or None
        Over the cells of the anomaly map, whose centres are inside or outside the outlines.
    anomalous_classes : dict[str, int]
        Number of outlines taken as anomalous, by class; "" for outlines without a class.
    by_class : dict[str, ClassFigures]
        Figures by class of tile; empty for maps, and if there are only one normal and one anomalous class.
    calibration : str
        What the false-positive rate of the threshold is based on and valid for; empty if not known.
    notes : tuple of str
        Sentences on what was assumed or left out, and on what makes the results too optimistic.
    """

    auroc: Interval
    average_precision: Interval
    rate: float
    false_positive_rate: float
    sensitivity: float
    f1: float
    tiles: int
    anomalous_tiles: int
    groups: int
    lesions: int | None = None
    lesions_found: int | None = None
    false_regions_per_mm2: float | None = None
    area_flagged: float | None = None
    normal_area_flagged: float | None = None
    froc: float | None = None
    found_per_mm2: dict[float, float] = field(default_factory=dict)
    cell_auroc: Interval | None = None
    cell_average_precision: Interval | None = None
    anomalous_classes: dict[str, int] = field(default_factory=dict)
    by_class: dict[str, ClassFigures] = field(default_factory=dict)
    calibration: str = ""
    notes: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """Return (name, value) rows to show."""
        rows = [
            ("AUROC of tiles (95% interval)", str(self.auroc)),
            ("Average precision", str(self.average_precision)),
            (
                f"At a threshold of {self.rate:.1%}",
                f"sensitivity {self.sensitivity:.1%}, false positives {self.false_positive_rate:.1%}, F1 {self.f1:.3f}",
            ),
            ("Tiles", f"{self.tiles:,}, of which {self.anomalous_tiles:,} anomalous; intervals over {self.groups:,} groups"),
        ]
        if self.cell_auroc is not None:
            rows.append(("AUROC of map cells", str(self.cell_auroc)))
            rows.append(("Average precision of map cells", str(self.cell_average_precision)))
        if self.lesions is not None:
            rows.append(("Known anomalies found", f"{self.lesions_found} of {self.lesions}"))
            rows.append(("False regions per mm² of normal tissue", f"{self.false_regions_per_mm2:.2g}"))
        if self.area_flagged is not None:
            rows.append(
                ("Area flagged", f"{self.area_flagged:.1%} of anomalies, {self.normal_area_flagged:.1%} of normal tissue")
            )
        if self.froc is not None:
            rows.append(("FROC score", f"{self.froc:.3f}"))
            found = ", ".join(f"{share:.0%} with {rate:g}" for rate, share in self.found_per_mm2.items())
            rows.append(("Found at false positives per mm²", found))
        if self.anomalous_classes:
            counts = ", ".join(f"{n} {name or 'without a class'}" for name, n in self.anomalous_classes.items())
            rows.append(("Taken as anomalous", counts))
        rows += [(name, str(figures)) for name, figures in self.by_class.items()]
        if self.calibration:
            rows.append(("Error rates", self.calibration))
        return [*rows, *(("Note", note) for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        """Return JSON-serialisable data."""
        return asdict(self)


def evaluate(
    result: AnomalyMap,
    truth: str | PathLike[str] | Sequence[Region],
    *,
    rate: float | None = None,
    downsample: float = 1.0,
    exclude: Sequence[Region] = (),
) -> Evaluation:
    """Measure how well a map finds known anomalies.

    Parameters
    ----------
    result : AnomalyMap
    truth : path-like or sequence of Region
        Outlines of the anomalies. Outlines of a normal class (or Camelyon's ``negative``) are cut out of them. If no outline has
        a class, all are anomalies. Tiles in outlines of other classes, or of ``Ignore*``, are left out.
    rate : float, optional
        False-positive rate of the threshold; default: see `AnomalyMap.default_rate`.
    downsample : float
        Divisor of the coordinates of an annotation file.
    exclude : sequence of Region
        Tiles that overlap these are left out, such as those that the detector was trained on.

    Raises
    ------
    RegionError
        If no tile of the map is anomalous, or all are.
    """
    given = read_annotations(truth, downsample) if isinstance(truth, str | PathLike) else Annotations.of(truth)
    rate = _checked(result.default_rate if rate is None else rate)
    lesions, undecided = _lesions(given)
    scores = result.scores.astype(np.float64)
    cover = coverage(result.boxes, lesions)
    anomalous = (cover >= ANOMALOUS_COVER) | _contains_lesion(result, lesions)
    use = ~np.isnan(scores) & ((cover == 0) | anomalous)
    if undecided:
        use &= (coverage(result.boxes, undecided) == 0) | anomalous
    if exclude:
        use &= coverage(result.boxes, exclude) == 0
    labels = anomalous[use]
    _check(labels, result.info.slide)
    blocks = result.origins[use] // int(max(8 * result.info.tile_l0, 1))
    cells = cell_scores(result, lesions, [*undecided, *exclude])
    flagged = cells.scores > result.calibration.field_threshold(rate)
    both = 0 < cells.anomalous.sum() < len(cells.anomalous)
    found, false = _regions_found(result, lesions, [*undecided, *exclude], rate)
    places = detect(result, lesions, use | (coverage(result.boxes, lesions) > 0))
    notes = [*given.notes, outside_note(given.regions, result.info.slide_shape, result.info.slide)]
    if undecided:
        counts = count_classes(undecided)
        notes.append(f"tiles in outlines whose class is neither normal nor anomalous are left out: {counts}")
    notes.append(_trained_on_note(result, left_out=bool(exclude)))
    notes.append(result.calibration.nothing_flagged(rate))
    interval = result.calibration.rate_interval(rate)
    return _evaluate(
        labels,
        scores[use],
        result.p_values[use] <= rate,
        blocks[:, 0] * 65536 + blocks[:, 1],
        rate,
        lesions=len(lesions),
        lesions_found=found,
        false_regions_per_mm2=false / cells.normal_mm2 if cells.normal_mm2 else 0.0,
        area_flagged=float(flagged[cells.anomalous].mean()) if both else None,
        normal_area_flagged=float(flagged[~cells.anomalous].mean()) if both else None,
        froc=places.froc,
        found_per_mm2=places.per_mm2(cells.normal_mm2),
        cell_auroc=binned_interval(binned_auroc, cells.anomalous, cells.scores, cells.blocks),
        cell_average_precision=binned_interval(binned_average_precision, cells.anomalous, cells.scores, cells.blocks),
        anomalous_classes=dict(Counter(lesion.name for lesion in lesions).most_common()),
        calibration=". ".join([result.calibration_note, *([] if interval is None else [interval.sentence])]),
        notes=tuple(note for note in notes if note),
    )


def _trained_on_note(result: AnomalyMap, *, left_out: bool) -> str:
    """Return a sentence if the detector was trained on the slide, else an empty text."""
    name = result.info.slide
    if name not in result.info.trained_on:
        return ""
    if left_out:
        return f"the detector was trained on {name}: excluded tiles are left out, but other slides are a fairer test"
    return (
        f"the detector was trained on {name}, and its training tiles are included: expect lower values on other slides; "
        "leave the training tiles out by their outlines (--exclude), or evaluate another slide"
    )


def evaluate_scores(
    labels: NDArray[np.bool_],
    scores: NDArray[np.floating],
    p_values: NDArray[np.floating],
    groups: NDArray[np.int64],
    *,
    rate: float | None = None,
    calibration_tiles: int | None = None,
    classes: Sequence[str] = (),
) -> Evaluation:
    """Measure how well scores of tiles separate label True from False; intervals are over groups.

    Parameters
    ----------
    labels : (N,) bool
        Whether a tile is anomalous.
    scores, p_values : (N,) floats
    groups : (N,) int64
        Slide, patient or folder of each tile.
    rate : float, optional
        False-positive rate of the threshold; default 1%, or the smallest rate that the calibration tiles allow.
    calibration_tiles : int, optional
        Number of calibration tiles behind the p-values; None if unknown.
    classes : sequence of N str, optional
        Class of each tile; gives figures by class, see `Evaluation.by_class`.

    Raises
    ------
    SettingsError
        If all labels are the same.
    """
    if not 0 < labels.sum() < len(labels):
        raise SettingsError("all labels are the same", "the manifest needs tiles with label 0 and with label 1")
    if calibration_tiles is None:
        rate = _checked(0.01 if rate is None else rate)
        few = f"nothing is flagged: a rate of {rate:.1%} needs at least {1 / rate - 1:.0f} calibration tiles"
        note = "" if (p_values <= rate).any() else f"{few}, whose number is unknown, or no tile is anomalous"
    else:
        rate = _checked(default_rate(calibration_tiles) if rate is None else rate)
        note = nothing_flagged(rate, calibration_tiles)
    flagged = p_values <= rate * (1 + 1e-5)  # p-values in tables have six digits
    exact = scores.astype(np.float64)
    by_class = figures_by_class(labels, exact, flagged, groups, classes) if len(classes) else {}
    return _evaluate(labels, exact, flagged, groups, rate, by_class=by_class, notes=(note,) if note else ())


def _checked(rate: float) -> float:
    if not 0 < rate < 1:
        raise SettingsError(f"a false-positive rate of {rate:g} is not between 0 and 1", "try 0.01")
    return rate


def _evaluate(
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    flagged: NDArray[np.bool_],
    groups: NDArray[np.int64],
    rate: float,
    **others: Any,
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
        groups=len(np.unique(groups)),
        **others,
    )


def _lesions(given: Annotations) -> tuple[list[Region], list[Region]]:
    """Return the anomalies with normal outlines cut out, and the outlines that are neither normal nor anomalous."""
    classed = given.classed or any(region.name for region in given.regions)
    lesions = [r for r in given.regions if r.meaning == "anomalous" or not classed]
    undecided = [r for r in given.regions if classed and r.meaning in ("unknown", "unclassed")]
    holes = shapely.union_all([r.geometry for r in given.regions if r.is_normal])
    cut = [replace(r, geometry=r.geometry.difference(holes)) for r in lesions]
    kept = [r for r in cut if not r.geometry.is_empty]
    if not kept:
        found = count_classes([*given.regions, *given.ignored])
        msg = f"the annotations contain no anomalous region (found: {found})"
        raise RegionError(msg, "outline the anomalies and give them a class other than Normal")
    return kept, [*undecided, *given.ignored]


def _contains_lesion(result: AnomalyMap, lesions: Sequence[Region]) -> NDArray[np.bool_]:
    """Return which tiles contain at least half of an outline, for outlines too small to cover half a tile."""
    holds = np.zeros(len(result), bool)
    tile_area = result.info.tile_l0**2
    for lesion in lesions:
        if lesion.geometry.area < tile_area:
            holds |= coverage(result.boxes, [lesion]) * tile_area >= ANOMALOUS_COVER * lesion.geometry.area
    return holds


def _check(labels: NDArray[np.bool_], name: str) -> None:
    if not labels.any():
        msg = f"no mapped tile of {name} overlaps the outlined anomalies enough to count"
        raise RegionError(
            msg, "check that the outlines belong to this slide and level (--truth-downsample), or map with smaller tiles"
        )
    if labels.all():
        raise RegionError(f"all mapped tiles of {name} are in outlined anomalies", "map normal tissue as well")


def _regions_found(result: AnomalyMap, lesions: Sequence[Region], left_out: Sequence[Region], rate: float) -> tuple[int, int]:
    """Return how many lesions flagged regions overlap, and how many regions overlap neither these nor what is left out."""
    flagged = [r.geometry for r in measure_regions(result, rate)]
    tree = shapely.STRtree(flagged)
    hit = [tree.query(r.geometry, predicate="intersects") for r in lesions]
    beside = [tree.query(r.geometry, predicate="intersects") for r in left_out]
    touched = np.unique(np.concatenate([*hit, *beside]))
    return sum(bool(len(h)) for h in hit), len(flagged) - len(touched)
