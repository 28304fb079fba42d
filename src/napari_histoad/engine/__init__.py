"""Where slides and detectors meet: train, map and score, on the available device."""

from napari_histoad.engine._bench import Speed, bench_job
from napari_histoad.engine._detector_view import DetectorView
from napari_histoad.engine._device import DeviceChoice, choose_device
from napari_histoad.engine._explain import Explanation, explain_tile, read_tile_at
from napari_histoad.engine._options import MAX_SEED, check_options
from napari_histoad.engine._score import score_images
from napari_histoad.engine._score_files import FileScores, score_files_job
from napari_histoad.engine.classifying import (
    LabelledTiles,
    fit_classifier_job,
    gather_labelled_job,
    grouped_folds,
    labelled_sources,
    list_labelled_files,
    predict_job,
    predict_prepared,
    prepare_job,
)
from napari_histoad.engine.mapping._cluster import Cluster
from napari_histoad.engine.mapping._cohort import CohortResult, CohortSlide, cohort_job, read_cohort
from napari_histoad.engine.mapping._map import MapOptions, map_job, map_path, map_slide
from napari_histoad.engine.training import (
    TrainingSource,
    fit_job,
    gather_job,
    own_side,
    recalibrate,
    recalibrate_job,
    self_detector_job,
    suspicious_file,
    train,
    train_job,
    training_sources,
)

__all__ = [
    "MAX_SEED",
    "Cluster",
    "CohortResult",
    "CohortSlide",
    "DetectorView",
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
    "self_detector_job",
    "suspicious_file",
    "train",
    "train_job",
    "training_sources",
]
