"""What a detector and a classifier make of one tile, and where the classifier looks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_histoad.classifiers import Classifier, ClassifyingDetector, relevance
from napari_histoad.engine._device import choose_device
from napari_histoad.engine.training._gather import stain_of, stained
from napari_histoad.errors import SettingsError
from napari_histoad.tiles import TileGrid, TileLoader, find_tissue

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histoad.detectors import Detector, TileScores
    from napari_histoad.slide import Slide

__all__ = ["Explanation", "explain_tile", "read_tile_at", "seen_by"]


@dataclass(frozen=True)
class Explanation:
    """One tile, explained; what a detector or a classifier does not give is None.

    Attributes
    ----------
    score : float or None
        Of the detector.
    reconstruction : (H, W, 3) uint8 or None
        What the detector expected to see.
    error : (H, W) float32 or None
        Where the detector was wrong.
    target : int or None
        The class that is spoken of.
    probability : float or None
        Of it.
    relevance : (H, W) float32 in [0, 1] or None
        How much each place speaks for it.
    method : str
        How that was found, see `classifiers.relevance`.
    """

    score: float | None = None
    reconstruction: NDArray[np.uint8] | None = None
    error: NDArray[np.float32] | None = None
    target: int | None = None
    probability: float | None = None
    relevance: NDArray[np.float32] | None = None
    method: str = ""


def explain_tile(
    model: Classifier | Detector, image: NDArray[np.uint8], target: int | None = None, device: str = "auto"
) -> Explanation:
    """Explain one tile.

    Parameters
    ----------
    model : Classifier or Detector
        Also both in one, as `load_model` returns them.
    image : (H, W, 3) uint8
        On the side that the model takes.
    target : int, optional
        The class to speak of; default the most probable.
    device : str

    Raises
    ------
    SettingsError
        If there is nothing to show but the tile: a detector that maps no errors, without a classifier.
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
        msg = f"{classifier.name} gives one score per tile, without a reconstruction or an error map to show"
        raise SettingsError(msg, "train a classifier on your verdicts, or a detector that rebuilds tiles, such as vqvae")
    return found


def _of_detector(scores: TileScores, side: int) -> Explanation:
    rebuilt = error = None
    if scores.reconstruction is not None:
        pixels = _resized(scores.reconstruction, side)[0].clamp(0, 1).movedim(0, 2)
        rebuilt = (255 * pixels).round().byte().cpu().numpy()
    if scores.error_map is not None:
        error = _resized(scores.error_map[None], side)[0, 0].cpu().numpy()
    return Explanation(float(scores.score[0]), rebuilt, error)


def _resized(planes: Tensor, side: int) -> Tensor:
    return F.interpolate(planes.float(), (side, side), mode="bilinear")


def _of_classifier(
    found: Explanation, classifier: Classifier, images: Tensor, scores: TileScores | None, target: int | None
) -> Explanation:
    classifier.eval()
    with torch.inference_mode():
        probabilities = classifier.probabilities(images, scores)[0]
    target = int(probabilities.argmax()) if target is None else target
    where, method = relevance(classifier, images, target)
    speaks = where[0].cpu().numpy()
    return replace(found, target=target, probability=float(probabilities[target]), relevance=speaks, method=method)


def seen_by(detector: Detector, slide: Slide) -> Slide:
    """Return a slide as a detector sees it in a map: with the stains that it wants, if any.

    Parameters
    ----------
    detector : Detector
    slide : Slide
        In sRGB if the detector learnt from slides in it.

    Raises
    ------
    SettingsError
        If too little of the slide is stained for its stains to be known.
    """
    target, settings = stain_of(detector), detector.settings
    return slide if target is None else stained(slide, find_tissue(slide), target, settings.tile_px, settings.mpp)


def read_tile_at(slide: Slide, centre: tuple[float, float], detector: Detector) -> NDArray[np.uint8]:
    """Return the tile (H, W, 3) uint8 around a place of a slide.

    Parameters
    ----------
    slide : Slide
        See `seen_by`.
    centre : tuple[float, float]
        (y, x) in level-0 pixels; near the border the nearest tile that is whole.
    detector : Detector
        Says the size and the resolution.

    Raises
    ------
    SlideError
        If the tile cannot be read.
    SettingsError
        If the slide is too coarse for the detector.
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
