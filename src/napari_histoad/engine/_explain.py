"""Explains the score and the class of one tile: reconstruction, error map and relevance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_histoad.classifiers import Classifier, ClassifyingDetector, relevance
from napari_histoad.engine._device import choose_device
from napari_histoad.errors import SettingsError
from napari_histoad.tiles import TileGrid, TileLoader

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histoad.detectors import Detector, TileScores
    from napari_histoad.slide import Slide


@dataclass(frozen=True)
class Explanation:
    """Explanation of one tile; None where the model has no such output."""

    score: float | None = None  # of the detector
    reconstruction: NDArray[np.uint8] | None = None  # (H, W, 3)
    error: NDArray[np.float32] | None = None  # (H, W), of the reconstruction at each pixel
    target: int | None = None  # index of the explained class
    probability: float | None = None  # of the explained class
    relevance: NDArray[np.float32] | None = None  # (H, W) in [0, 1], how much each pixel contributes to that class
    method: str = ""  # that computed the relevance, see `classifiers.relevance`


def explain_tile(
    model: Classifier | Detector, image: NDArray[np.uint8], target: int | None = None, device: str = "auto"
) -> Explanation:
    """Explain one tile (H, W, 3) uint8 of the model's size.

    The model may be a detector, a classifier, or both as `load_model` combines them. ``target`` is the index of the class to
    explain, by default the most probable one. Raises `SettingsError` if there is nothing to show: a detector without
    reconstruction and error map.
    """
    choice = choose_device(device)
    model.to(choice.device)
    classifier = model.classifier if isinstance(model, ClassifyingDetector) else model
    detector = classifier.detector if isinstance(classifier, Classifier) else classifier
    images = torch.from_numpy(image.copy())[None].to(choice.device)
    with torch.inference_mode():
        scores = None if detector is None else detector.score(images)
    found = Explanation() if scores is None else _of_detector(scores, image.shape[0])
    if isinstance(classifier, Classifier):
        return _of_classifier(found, classifier, images, scores, target)
    if found.reconstruction is None and found.error is None:
        msg = f"{classifier.name} returns one score per tile; it has no reconstruction and no error map to show"
        raise SettingsError(msg, "train a classifier on your verdicts, or a detector that reconstructs tiles, such as vqvae")
    return found


def _of_detector(scores: TileScores, side: int) -> Explanation:
    reconstruction = error = None
    if scores.reconstruction is not None:
        pixels = _resized(scores.reconstruction, side)[0].clamp(0, 1).movedim(0, 2)
        reconstruction = (255 * pixels).round().byte().cpu().numpy()
    if scores.error_map is not None:
        error = _resized(scores.error_map[None], side)[0, 0].cpu().numpy()
    return Explanation(float(scores.score[0]), reconstruction, error)


def _resized(planes: Tensor, side: int) -> Tensor:
    return F.interpolate(planes.float(), (side, side), mode="bilinear")


def _of_classifier(
    found: Explanation, classifier: Classifier, images: Tensor, scores: TileScores | None, target: int | None
) -> Explanation:
    classifier.eval()
    with torch.inference_mode():
        probabilities = classifier.probabilities(images, scores)[0]
    target = int(probabilities.argmax()) if target is None else target
    found_relevance, method = relevance(classifier, images, target)
    pixels = found_relevance[0].cpu().numpy()
    return replace(found, target=target, probability=float(probabilities[target]), relevance=pixels, method=method)


def read_tile_at(slide: Slide, centre: tuple[float, float], detector: Detector) -> NDArray[np.uint8]:
    """Return the tile (H, W, 3) uint8 around (y, x) in level-0 pixels; near the border, the nearest tile inside the slide.

    The slide is given as the detector sees it, see `DetectorView.of_slide`. Raises `SlideError` if the tile cannot be read,
    `SettingsError` if the slide's resolution is too coarse for the detector.
    """
    settings = detector.settings
    grid = TileGrid.cover(slide.shape, slide.require_mpp(), tile_px=settings.tile_px, mpp=settings.mpp)
    last = np.maximum(np.array(slide.shape) - np.ceil(grid.tile_l0), 0)
    corner = np.clip(np.rint(np.array(centre) - grid.tile_l0 / 2), 0, last).astype(np.int64)
    loader = TileLoader(slide, replace(grid, origins=corner[None]), batch=1)
    batch = next(iter(loader))
    if batch.failed[0]:
        raise loader.errors[0]
    tile: NDArray[np.uint8] = batch.images[0].copy()
    return tile
