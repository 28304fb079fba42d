"""Training detectors: read tiles, train networks, calibrate scores."""

from napari_histoad.engine.training._gather import gather_job
from napari_histoad.engine.training._recalibrate import recalibrate, recalibrate_job
from napari_histoad.engine.training._self_detector import SELF_NOTE, self_detector_job
from napari_histoad.engine.training._sources import TrainingSource, common_mpp, training_sources
from napari_histoad.engine.training._tile_files import accepts_side, fits_by_resizing, own_side, read_good_tiles
from napari_histoad.engine.training._train import fit_job, suspicious_file, train, train_job

__all__ = [
    "SELF_NOTE",
    "TrainingSource",
    "accepts_side",
    "common_mpp",
    "fit_job",
    "fits_by_resizing",
    "gather_job",
    "own_side",
    "read_good_tiles",
    "recalibrate",
    "recalibrate_job",
    "self_detector_job",
    "suspicious_file",
    "train",
    "train_job",
    "training_sources",
]
