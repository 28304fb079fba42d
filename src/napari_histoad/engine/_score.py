"""Scores of tiles in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._batch import batches_of, score_stream
from napari_histoad.engine._device import choose_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector


def score_images(detector: Detector, images: NDArray[np.uint8], device: str = "auto") -> NDArray[np.float32]:
    """Return the scores (N,) float32 of tiles (N, H, W, 3) uint8; higher is more anomalous."""
    choice = choose_device(device)
    detector.to(choice.device)
    parts = [found.scores for found in score_stream(detector, choice, batches_of(images, choice.batch))]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
