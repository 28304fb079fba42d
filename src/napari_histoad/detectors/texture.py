"""Classical texture: no training loop, no GPU, each number can be named. The bar that a deep detector has to clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from napari_histoad.detectors._base import DetectorSettings
from napari_histoad.detectors._features import FeatureDetector
from napari_histoad.detectors._normal_model import Measure, NormalModel
from napari_histoad.networks.texture import TextureStatistics

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TextureDetector", "TextureSettings"]


class TextureSettings(DetectorSettings):
    """Settings of the texture detector.

    Attributes
    ----------
    measure : {"fused", "mahalanobis", "neighbours"}
        Distance from the normals: shrinkage Mahalanobis, to the nearest normal tile, or both.
    """

    measure: Measure = "fused"


class TextureDetector(FeatureDetector):
    """Distance of texture statistics, see `napari_histoad.networks.texture`, from those of normals."""

    name: ClassVar[str] = "texture"
    title: ClassVar[str] = "Texture"
    summary: ClassVar[str] = "Measures the distance of stain texture from that of normal tissue; fits in seconds without a GPU."
    Settings = TextureSettings
    settings: TextureSettings

    def __init__(self, settings: TextureSettings) -> None:
        super().__init__(settings)
        self._statistics = TextureStatistics(settings.tile_px)
        self.model = NormalModel(TextureStatistics.dimensions, settings.measure)

    @property
    def reduced_precision(self) -> bool:
        return False  # fourth powers

    @property
    def compiles(self) -> bool:
        return False  # counting codes takes three times as long

    def codes(self, images: Tensor) -> Tensor:
        statistics: Tensor = self._statistics(images)
        return statistics

    def to(self, device: torch.device) -> None:
        super().to(device)
        self._statistics.to(device)
