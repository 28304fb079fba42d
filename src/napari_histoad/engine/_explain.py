"""What a classifier makes of one tile, and where it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_histoad.classifiers import grad_cam
from napari_histoad.engine._device import choose_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.classifiers import Classifier

__all__ = ["Explanation", "explain_tile"]


@dataclass(frozen=True)
class Explanation:
    """One tile, explained.

    Attributes
    ----------
    target : int
        The class that is spoken of.
    probability : float
        Of it.
    relevance : (H, W) float32 in [0, 1]
        Grad-CAM: how much each place speaks for it.
    reconstruction : (H, W, 3) uint8 or None
        What the detector expected to see.
    error : (H, W) float32 or None
        Where the detector was wrong.
    """

    target: int
    probability: float
    relevance: NDArray[np.float32]
    reconstruction: NDArray[np.uint8] | None = None
    error: NDArray[np.float32] | None = None


def explain_tile(
    classifier: Classifier, image: NDArray[np.uint8], target: int | None = None, device: str = "auto"
) -> Explanation:
    """Explain one tile (H, W, 3) uint8; without ``target``, its most probable class."""
    choice = choose_device(device)
    classifier.to(choice.device)
    classifier.eval()
    images = torch.from_numpy(image.copy())[None].to(choice.device)
    with torch.no_grad():
        scores = None if classifier.detector is None else classifier.detector.score(images)
        probabilities = classifier.probabilities(images, scores)[0]
    target = int(probabilities.argmax()) if target is None else target
    relevance = grad_cam(classifier, images, target)[0].cpu().numpy()
    rebuilt = error = None
    side = (image.shape[0], image.shape[1])
    if scores is not None and scores.reconstruction is not None:
        pixels = F.interpolate(scores.reconstruction.float(), side, mode="bilinear")[0].clamp(0, 1).movedim(0, 2)
        rebuilt = (255 * pixels).round().byte().cpu().numpy()
    if scores is not None and scores.error_map is not None:
        error = F.interpolate(scores.error_map.float()[None], side, mode="bilinear")[0, 0].cpu().numpy()
    return Explanation(target, float(probabilities[target]), relevance, rebuilt, error)
