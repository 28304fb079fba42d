"""How good: maps and tile scores against known anomalies."""

from napari_histoad.evaluation._evaluate import Evaluation, evaluate, evaluate_scores
from napari_histoad.evaluation._metrics import Interval, bootstrap

__all__ = ["Evaluation", "Interval", "bootstrap", "evaluate", "evaluate_scores"]
