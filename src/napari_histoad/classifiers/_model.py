"""A detector and a classifier as one, ready to map with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_histoad.classifiers._bundle import has_classifier, load_classifier, save_classifier
from napari_histoad.detectors import Detector, load_detector, save_detector
from napari_histoad.errors import BundleError

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from torch import Tensor

    from napari_histoad.classifiers._base import Classifier
    from napari_histoad.detectors import TileScores


class ClassifyingDetector(Detector):
    """A trained detector with a classifier: scores and class probabilities in one pass over the pixels.

    Parameters
    ----------
    classifier : Classifier
        A trained classifier with a detector.

    Raises
    ------
    BundleError
        If the classifier has no detector.
    """

    def __init__(self, classifier: Classifier) -> None:
        detector = classifier.detector
        if detector is None:
            what = "this classifier has no detector, so it has no anomaly score to map"
            raise BundleError(what, "train it with --model DETECTOR")
        super().__init__(detector.settings)
        self.classifier, self.detector = classifier, detector
        self.name, self.title, self.summary = detector.name, detector.title, detector.summary  # type: ignore[misc]
        self.exports_onnx, self.earlier = detector.exports_onnx, detector.earlier  # type: ignore[misc]
        self.calibration, self.trained_on = detector.calibration, detector.trained_on
        self.backbone, self.stain_target = detector.backbone, detector.stain_target
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.classifier.settings.classes

    @property
    def allows_bfloat16(self) -> bool:
        return self.detector.allows_bfloat16

    @property
    def compiles(self) -> bool:
        return self.detector.compiles and "texture" not in self.classifier.settings.networks

    @property
    def scores_any_batch_alike(self) -> bool:
        return self.detector.scores_any_batch_alike and "texture" not in self.classifier.settings.networks

    def score(self, images: Tensor) -> TileScores:
        scores = self.detector.score(images)
        return replace(scores, probabilities=self.classifier.probabilities(images, scores))

    def saved_state(self) -> dict[str, Tensor]:
        return {**self.detector.saved_state(), **self.classifier.saved_state()}


def classes_of(detector: Detector) -> tuple[str, ...]:
    """Return the names of the classes that a detector computes probabilities of; empty without a classifier."""
    return detector.classes if isinstance(detector, ClassifyingDetector) else ()


def load_model(path: str | PathLike[str]) -> Detector:
    """Return the detector in a file, with the classifier if the file contains one.

    Raises
    ------
    BundleError
        As `load_detector` and `load_classifier`.
    """
    return ClassifyingDetector(load_classifier(path)) if has_classifier(path) else load_detector(path)


def save_model(detector: Detector, path: str | PathLike[str]) -> Path:
    """Write what `load_model` returned."""
    return (
        save_classifier(detector.classifier, path) if isinstance(detector, ClassifyingDetector) else save_detector(detector, path)
    )
