"""Learn normal from the slide itself: when nothing has been trained yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.calibration import LEAST_HELD_OUT, Calibration, CalibrationBasis
from napari_histoad.detectors import load_detector, starter_path
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._score import score_images
from napari_histoad.errors import TooFewTilesError
from napari_histoad.jobs import Progress
from napari_histoad.tiles import sample_tiles, training_grid

if TYPE_CHECKING:
    from napari_histoad.detectors import Detector
    from napari_histoad.jobs import Job
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import TissueMask

__all__ = ["SELF_NOTE", "self_detector_job"]

SELF_NOTE = "learnt from this slide's own tissue: rare tissue stands out, and a slide that is abnormal throughout will not"
_MAX_TILES, _MIN_TILES = 1000, 32


def self_detector_job(
    slide: Slide, tissue: TissueMask, *, mpp: float | None = None, device: str = "auto", seed: int = 0
) -> Job[Detector]:
    """Fit the starter model's features to the bulk of the slide's own tissue; no training loop.

    A robust Gaussian of the encoder's tile statistics is fitted to three quarters of the tiles, in spatial blocks,
    and calibrated on the bulk of the remaining blocks: what is anomalous there must not set the threshold.

    Raises
    ------
    TooFewTilesError
        If the slide holds fewer than 32 tiles of tissue.
    """
    slide_mpp = slide.require_mpp()
    starter = starter_path()
    wanted = max(mpp or 0.5, slide_mpp)
    detector = load_detector(starter, error="mahalanobis", mpp=wanted)
    choice = choose_device(device)
    side = detector.settings.tile_px
    yield Progress("Learning normal from this slide", 0, 3, "steps")
    grid = training_grid(slide, tissue, tile_px=side, mpp=wanted)
    if len(grid) < _MIN_TILES:
        msg = f"{slide.path.name} holds {len(grid)} tiles of tissue, too few to learn what is normal on it"
        raise TooFewTilesError(msg, "train a detector on other slides, or use a finer --mpp")
    rng = np.random.default_rng(seed)
    tiles = sample_tiles(slide, grid, _MAX_TILES, rng)
    kept, held_out = tiles.divided(LEAST_HELD_OUT, single=True).split(0.25, rng, LEAST_HELD_OUT)
    yield Progress("Learning normal from this slide", 1, 3, "steps")
    detector.to(choice.device)
    with choice.autocast(detector):
        detector.fit(tiles.images[kept], robust=True)
    yield Progress("Learning normal from this slide", 2, 3, "steps")
    scores = score_images(detector, tiles.images[held_out], device)
    detector.calibration = Calibration.from_scores(
        scores, robust=True, groups=tiles.groups[held_out], basis=CalibrationBasis(tiles.grouping, doubts=("self",), sources=1)
    )
    detector.trained_on = (slide.file_name,)
    yield Progress("Learning normal from this slide", 3, 3, "steps")
    return detector
