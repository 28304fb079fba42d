"""Measures a classifier on tiles that it was not trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

from napari_histoad.engine import check_options, fit_classifier_job, grouped_folds, predict_prepared, prepare_job
from napari_histoad.evaluation._metrics import Interval, bootstrap

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histoad.classifiers import ClassifierSettings
    from napari_histoad.detectors import Detector
    from napari_histoad.engine import LabelledTiles
    from napari_histoad.jobs import Job

_BALANCED = 1.1


@dataclass(frozen=True)
class ClassReport:
    """Metrics of a classifier, with bootstrap intervals over groups.

    Precision, recall and F1 are those of the second of two classes, or means over more classes.

    Attributes
    ----------
    accuracy, precision, recall, f1, auroc : Interval
    tiles, groups : int
    folds : int
        Folds of the cross-validation; 0 if the tiles were not part of the training set.
    """

    accuracy: Interval
    precision: Interval
    recall: Interval
    f1: Interval
    auroc: Interval
    tiles: int
    groups: int
    folds: int = 0

    def rows(self) -> list[tuple[str, str]]:
        """Return (name, value) rows to show."""
        how = f"{self.folds}-fold cross-validation" if self.folds else "not part of the training set"
        names = ("accuracy", "precision", "recall", "f1", "auroc")
        titles = ("Accuracy (95% interval)", "Precision", "Recall", "F1", "AUROC")
        figures = [(title, str(getattr(self, name))) for title, name in zip(titles, names, strict=True)]
        return [*figures, ("Measured on", f"{self.tiles:,} tiles in {self.groups:,} groups, {how}")]

    def to_json(self) -> dict[str, Any]:
        """Return JSON-serialisable data."""
        return asdict(self)


def notes_on_classes(data: LabelledTiles, detector: Detector | None, *, judged: bool = False) -> tuple[str, ...]:
    """Return sentences on what limits the metrics and probabilities of a classifier that was trained on these tiles.

    Parameters
    ----------
    data : LabelledTiles
        Tiles that it was trained and cross-validated on.
    detector : Detector or None
        Detector that provides its reconstructions or error maps; None if it uses images only.
    judged : bool
        Whether the tiles were chosen for their high scores on a map.
    """
    notes = []
    sources = set(data.tiles.sources)
    shared = sources & set(() if detector is None else detector.trained_on)
    if shared:
        notes.append(f"the detector was trained on {min(shared)}: expect lower values on other slides")
    elif len(sources) == 1 and data.tiles.places and all(place.box is not None for place in data.tiles.places):
        notes.append(f"all tiles are from one slide, {min(sources)}: expect lower values on other slides")
    if judged:
        notes.append("the judged tiles have unusual scores: the values hold for such tiles, not for the whole slide")
    counts = np.bincount(data.labels, minlength=len(data.classes))
    if counts.max() > _BALANCED * counts.min():
        rare = data.classes[int(counts.argmin())]
        notes.append(
            "rare classes have a larger weight in training, so probabilities assume equally frequent classes, "
            f"and that of {rare} is higher than its share of the tiles"
        )
    return tuple(notes)


def report_classes(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], groups: NDArray[np.int64], folds: int = 0
) -> ClassReport:
    """Return metrics of predicted class probabilities.

    Parameters
    ----------
    labels : (N,) int64
    probabilities : (N, K) float32
    groups : (N,) int64
        Slide, patient or outline of each tile.
    folds : int
        See `ClassReport`.
    """
    classes = probabilities.shape[1]
    average = "binary" if classes == 2 else "macro"

    def of(part: int) -> Interval:
        def metric(rows: NDArray[np.int64]) -> float:
            predicted = probabilities[rows].argmax(1)
            found = precision_recall_fscore_support(labels[rows], predicted, average=average, zero_division=0)
            return float(found[part])

        return _interval(metric, labels, groups)

    def auroc(rows: NDArray[np.int64]) -> float:
        p = probabilities[rows].astype(np.float64)
        if classes == 2:
            return float(roc_auc_score(labels[rows], p[:, 1]))
        present = np.unique(labels[rows])
        return float(np.mean([roc_auc_score(labels[rows] == k, p[:, k]) for k in present]))

    return ClassReport(
        accuracy=_interval(lambda rows: float(accuracy_score(labels[rows], probabilities[rows].argmax(1))), labels, groups),
        precision=of(0),
        recall=of(1),
        f1=of(2),
        auroc=_interval(auroc, labels, groups),
        tiles=len(labels),
        groups=len(np.unique(groups)),
        folds=folds,
    )


def _interval(metric: Any, labels: NDArray[np.int64], groups: NDArray[np.int64]) -> Interval:
    rows = np.arange(len(labels))
    # The rows stand for the scores, so that the metric gets the rows that `bootstrap` has drawn.
    return bootstrap(lambda _, picked: metric(picked.astype(np.int64)), labels > 0, rows.astype(np.float64), groups)


def cross_validate_job(
    settings: ClassifierSettings,
    data: LabelledTiles,
    *,
    folds: int = 5,
    detector: Detector | None = None,
    weights: dict[str, Path] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Job[ClassReport]:
    """Cross-validate a classifier: train on all folds but one and predict that one, in turn; groups are never split.

    Other parameters are those of `fit_classifier_job`.

    Raises
    ------
    TooFewTilesError
        If a class has fewer than three groups, for training, early stopping and testing.
    """
    from napari_histoad.classifiers import Classifier

    check_options(folds=folds, seed=seed)
    prepared = yield from prepare_job(Classifier(settings, detector), data.tiles.images, device)
    probabilities = np.full((len(data.labels), len(data.classes)), np.nan, np.float32)
    used = 0
    for kept, held_out in grouped_folds(data.labels, data.tiles.groups, folds, seed):
        classifier = yield from fit_classifier_job(
            settings, data, detector=detector, weights=weights, rows=kept, prepared=prepared, device=device, seed=seed
        )
        probabilities[held_out] = predict_prepared(classifier, prepared, held_out, device)
        used += 1
    tested = ~np.isnan(probabilities[:, 0])
    return report_classes(data.labels[tested], probabilities[tested], data.tiles.groups[tested], used)
