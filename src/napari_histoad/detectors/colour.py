"""The colour baseline: a detector that does not beat it has learnt nothing about morphology."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from napari_histoad.detectors._base import DetectorSettings
from napari_histoad.detectors._features import FeatureDetector
from napari_histoad.detectors._gaussian import Gaussian

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ColourDetector"]

_WHITE = 220


class ColourDetector(FeatureDetector):
    """Gaussian on mean and standard deviation of R, G, B and the white fraction of a tile. No morphology at all."""

    name: ClassVar[str] = "colour"
    title: ClassVar[str] = "Colour"
    summary: ClassVar[str] = "Compares only colour statistics: the baseline that every other detector should beat."
    exports_onnx: ClassVar[bool] = True
    Settings = DetectorSettings

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__(settings)
        self.model = Gaussian(7)

    def features(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1, 2)
        values = pixels.float() / 255
        white = (pixels.amin(2) > _WHITE).float().mean(1, keepdim=True)
        return torch.cat([values.mean(1), values.std(1), white], 1)
