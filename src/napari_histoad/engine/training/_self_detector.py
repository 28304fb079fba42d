"""Fits a detector to the slide that is to be mapped, if no trained detector is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_histoad.calibration import LEAST_HELD_OUT, Calibration, CalibrationBasis
from napari_histoad.detectors import features_of, load_detector, starter_path
from napari_histoad.engine._batch import batches_of, score_stream
from napari_histoad.engine._device import choose_device
from napari_histoad.errors import TooFewTilesError
from napari_histoad.jobs import Progress
from napari_histoad.networks.threads import thread_count
from napari_histoad.tiles import sample_tiles_job, training_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.jobs import Job
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import TissueMask

SELF_NOTE = "It then finds rare tissue, diseased or not; widespread disease is not found."
_MAX_TILES, _MIN_TILES = 1000, 32
_STAGE = "Learning normal from this slide"
_PART = 64
"""Tiles between two reports: a multiple of the batch of every worker thread, so that none is idle."""


def self_detector_job(
    slide: Slide, tissue: TissueMask, *, mpp: float | None = None, device: str = "auto", seed: int = 0
) -> Job[Detector]:
    """Fit the starter model's features to the slide's own tissue, without training a network.

    A robust Gaussian is fitted to the encoder's tile statistics in three quarters of the spatial blocks, and calibrated on the
    other blocks without their outlying scores, so that anomalies do not raise the threshold. Raises `TooFewTilesError` for fewer
    than 32 tiles of tissue.
    """
    slide_mpp = slide.require_mpp()
    starter = starter_path()
    wanted = max(mpp or 0.5, slide_mpp)
    detector = load_detector(starter, error="mahalanobis", mpp=wanted)
    choice = choose_device(device)
    side = detector.settings.tile_px
    grid = training_grid(slide, tissue, tile_px=side, mpp=wanted)
    if len(grid) < _MIN_TILES:
        msg = f"{slide.path.name} has {len(grid)} tiles of tissue, too few to learn normal tissue from"
        raise TooFewTilesError(msg, "train a detector on other slides, or use a finer --mpp")
    rng = np.random.default_rng(seed)
    tiles = yield from sample_tiles_job(slide, grid, _MAX_TILES, rng)
    kept, held_out = tiles.divided(LEAST_HELD_OUT, single=True).split(0.25, rng, LEAST_HELD_OUT)
    detector.to(choice.device)
    yield from _fit_job(detector, choice, tiles.images[kept], len(tiles))
    scores = []
    apart = tiles.images[held_out]
    for found in score_stream(detector, choice, batches_of(apart, choice.batch)):
        scores.append(found.scores)
        yield Progress(_STAGE, len(tiles) - len(apart) + int(found.index[-1]) + 1, len(tiles))
    detector.calibration = Calibration.from_scores(
        np.concatenate(scores),
        robust=True,
        groups=tiles.groups[held_out],
        slides=tiles.slide_of[held_out],
        basis=CalibrationBasis(tiles.grouping, doubts=("self",), sources=1, names=tiles.sources),
    )
    detector.trained_on = (slide.file_name,)
    return detector


def _fit_job(detector: Detector, choice: DeviceChoice, images: NDArray[np.uint8], total: int) -> Job[None]:
    """Fit the Gaussian and report the number of tiles whose features have been computed."""
    compute: Any = detector.features
    features, part = [], max(_PART, _PART // 2 * thread_count())
    yield Progress(_STAGE, 0, total)
    for first in range(0, len(images), part):
        with choice.autocast(detector):
            features.append(features_of(compute, images[first : first + part], choice.device))
        yield Progress(_STAGE, min(first + part, len(images)), total)
    detector.fit_features(torch.cat(features), robust=True)
