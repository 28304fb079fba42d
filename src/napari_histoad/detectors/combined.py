"""Texture statistics and the VQ-VAE of features as one detector: one often sees what the other does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from napari_histoad.detectors._feature_vqvae import FeatureVqVaeDetector, FeatureVqVaeSettings
from napari_histoad.detectors._features import in_full_precision
from napari_histoad.detectors._normal_model import NormalModel
from napari_histoad.networks.texture import TextureStatistics

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histoad.detectors._features import FeatureModel

__all__ = ["CombinedDetector"]


class CombinedDetector(FeatureVqVaeDetector):
    """Distance of texture statistics from those of normal tiles, fused with the relative error of the VQ-VAE of features."""

    name: ClassVar[str] = "combined"
    title: ClassVar[str] = "Texture and VQ-VAE"
    summary: ClassVar[str] = "Joins the distance of stain texture from that of normal tissue with the error of a VQ-VAE."
    learns_by_steps: ClassVar[bool] = True
    Settings = FeatureVqVaeSettings

    def __init__(self, settings: FeatureVqVaeSettings) -> None:
        super().__init__(settings)
        self.statistics = TextureStatistics(settings.tile_px)

    @property
    def error(self) -> str:
        return "relative"  # with the pattern of the residuals it is worse where patients differ in stain

    @property
    def compiles(self) -> bool:
        return False  # counting binary patterns takes three times as long

    def _parts(self) -> dict[str, tuple[int, FeatureModel]]:
        size = TextureStatistics.dimensions
        return {"texture": (size, NormalModel(size, "neighbours")), **super()._parts()}

    def _described(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, relative, picture = super()._described(images)
        with in_full_precision(images):  # fourth powers
            return torch.cat([self.statistics(images), features], 1), relative, picture
