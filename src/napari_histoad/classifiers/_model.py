"""Detector and classifier as one: what a file holds, ready to map with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_histoad.classifiers._bundle import holds_classifier, load_classifier, save_classifier
from napari_histoad.detectors import Detector, load_detector, save_detector
from napari_histoad.errors import BundleError

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import torch
    from torch import Tensor

    from napari_histoad.classifiers._base import Classifier
    from napari_histoad.detectors import TileScores

__all__ = ["ClassifyingDetector", "classes_of", "load_model", "save_model"]


class ClassifyingDetector(Detector):
    """A trained detector that also says which class a tile is of, in one pass over its pixels.

    Parameters
    ----------
    classifier : Classifier
        With its detector.

    Raises
    ------
    BundleError
        If the classifier has no detector.
    """

    def __init__(self, classifier: Classifier) -> None:
        if classifier.detector is None:
            raise BundleError(
                "this classifier has no detector, so it has no anomaly score to map", "train it with --model DETECTOR"
            )
        self.classifier, self.detector = classifier, classifier.detector
        super().__init__(self.detector.settings)
        self.name, self.title = self.detector.name, self.detector.title  # type: ignore[misc]
        self.calibration, self.trained_on = self.detector.calibration, self.detector.trained_on
        self.backbone, self.stain_target = self.detector.backbone, self.detector.stain_target

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.classifier.settings.classes

    @property
    def reduced_precision(self) -> bool:
        return self.detector.reduced_precision

    @property
    def compiles(self) -> bool:
        return self.detector.compiles and "texture" not in self.classifier.settings.networks

    def score(self, images: Tensor) -> TileScores:
        scores = self.detector.score(images)
        return replace(scores, probabilities=self.classifier.probabilities(images, scores))

    def state(self) -> dict[str, Tensor]:
        return {**self.detector.state(), **self.classifier.state()}

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.classifier.to(device)


def classes_of(detector: Detector) -> tuple[str, ...]:
    """Return the classes that a detector gives probabilities of; none for most."""
    return detector.classes if isinstance(detector, ClassifyingDetector) else ()


def load_model(path: str | PathLike[str]) -> Detector:
    """Return the detector of a file, with the classifier that the file carries, if it does.

    Raises
    ------
    BundleError
        As `load_detector` and `load_classifier`.
    """
    return ClassifyingDetector(load_classifier(path)) if holds_classifier(path) else load_detector(path)


def save_model(detector: Detector, path: str | PathLike[str]) -> Path:
    """Write what `load_model` returned."""
    return (
        save_classifier(detector.classifier, path) if isinstance(detector, ClassifyingDetector) else save_detector(detector, path)
    )
