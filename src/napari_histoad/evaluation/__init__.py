"""Measures how well maps, tile scores and classifiers find known anomalies."""

from napari_histoad.evaluation._classes import ClassReport, cross_validate_job, notes_on_classes, report_classes
from napari_histoad.evaluation._evaluate import Evaluation, evaluate, evaluate_scores
from napari_histoad.evaluation._metrics import Interval, bootstrap

__all__ = [
    "ClassReport",
    "Evaluation",
    "Interval",
    "bootstrap",
    "cross_validate_job",
    "evaluate",
    "evaluate_scores",
    "notes_on_classes",
    "report_classes",
]
