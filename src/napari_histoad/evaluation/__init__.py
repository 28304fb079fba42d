"""Measures how well maps, tile scores and classifiers find known anomalies."""

from napari_histoad.evaluation._by_class import ClassFigures
from napari_histoad.evaluation._classes import ClassReport, cross_validate_job, notes_on_classes, report_classes
from napari_histoad.evaluation._evaluate import Evaluation, evaluate, evaluate_scores
from napari_histoad.evaluation._localise import CellScores, binned_auroc, binned_average_precision, binned_interval, cell_scores
from napari_histoad.evaluation._metrics import Interval, bootstrap, group_draws

__all__ = [
    "CellScores",
    "ClassFigures",
    "ClassReport",
    "Evaluation",
    "Interval",
    "binned_auroc",
    "binned_average_precision",
    "binned_interval",
    "bootstrap",
    "cell_scores",
    "cross_validate_job",
    "evaluate",
    "evaluate_scores",
    "group_draws",
    "notes_on_classes",
    "report_classes",
]
