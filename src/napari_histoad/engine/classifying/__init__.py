"""Training and applying tile classifiers."""

from napari_histoad.engine.classifying._classify import (
    fit_classifier_job,
    grouped_folds,
    predict_job,
    predict_prepared,
    prepare_job,
)
from napari_histoad.engine.classifying._labelled import LabelledTiles, gather_labelled_job, labelled_sources, list_labelled_files

__all__ = [
    "LabelledTiles",
    "fit_classifier_job",
    "gather_labelled_job",
    "grouped_folds",
    "labelled_sources",
    "list_labelled_files",
    "predict_job",
    "predict_prepared",
    "prepare_job",
]
