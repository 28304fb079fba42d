"""Doing it: where slides and detectors meet. Train, map, score, on the device at hand."""

from napari_histoad.engine._bench import Speed, bench_job
from napari_histoad.engine._device import DeviceChoice, choose_device
from napari_histoad.engine._explain import Explanation, explain_tile, read_tile_at, seen_by
from napari_histoad.engine._options import MAX_SEED, check_options
from napari_histoad.engine._score import FileScores, score_files_job, score_images
from napari_histoad.engine.classifying._classify import (
    fit_classifier_job,
    grouped_folds,
    predict_job,
    predict_prepared,
    prepare_job,
)
from napari_histoad.engine.classifying._labelled import LabelledTiles, gather_labelled_job, labelled_sources, list_labelled_files
from napari_histoad.engine.mapping._cluster import Cluster
from napari_histoad.engine.mapping._cohort import CohortResult, CohortSlide, cohort_job, read_cohort
from napari_histoad.engine.mapping._map import MapOptions, map_job, map_path, map_slide
from napari_histoad.engine.training._gather import TrainingSource, gather_job, stain_of, stain_of_files, training_sources
from napari_histoad.engine.training._recalibrate import recalibrate, recalibrate_job
from napari_histoad.engine.training._self import self_detector_job
from napari_histoad.engine.training._tile_files import own_side
from napari_histoad.engine.training._train import fit_job, suspicious_file, train, train_job

__all__ = [
    "MAX_SEED",
    "Cluster",
    "CohortResult",
    "CohortSlide",
    "DeviceChoice",
    "Explanation",
    "FileScores",
    "LabelledTiles",
    "MapOptions",
    "Speed",
    "TrainingSource",
    "bench_job",
    "check_options",
    "choose_device",
    "cohort_job",
    "explain_tile",
    "fit_classifier_job",
    "fit_job",
    "gather_job",
    "gather_labelled_job",
    "grouped_folds",
    "labelled_sources",
    "list_labelled_files",
    "map_job",
    "map_path",
    "map_slide",
    "own_side",
    "predict_job",
    "predict_prepared",
    "prepare_job",
    "read_cohort",
    "read_tile_at",
    "recalibrate",
    "recalibrate_job",
    "score_files_job",
    "score_images",
    "seen_by",
    "self_detector_job",
    "stain_of",
    "stain_of_files",
    "suspicious_file",
    "train",
    "train_job",
    "training_sources",
]
