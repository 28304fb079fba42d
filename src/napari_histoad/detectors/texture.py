"""Classical texture statistics: no training loop, no GPU, every feature has a name. A deep detector should beat it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

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
        Distance from normal tiles: Mahalanobis with a shrunk covariance, to the nearest normal tile, or both.
    """

    measure: Measure = "fused"


class TextureDetector(FeatureDetector):
    """Distance of texture statistics, see `napari_histoad.networks.texture`, from those of normal tiles."""

    name: ClassVar[str] = "texture"
    title: ClassVar[str] = "Texture"
    summary: ClassVar[str] = "Measures the distance of stain texture from that of normal tissue; fits in seconds without a GPU."
    Settings = TextureSettings
    settings: TextureSettings

    def __init__(self, settings: TextureSettings) -> None:
        super().__init__(settings)
        self.statistics = TextureStatistics(settings.tile_px)
        self.model = NormalModel(TextureStatistics.dimensions, settings.measure)

    @property
    def allows_bfloat16(self) -> bool:
        return False  # fourth powers

    @property
    def compiles(self) -> bool:
        return False  # counting binary patterns takes three times as long

    def features(self, images: Tensor) -> Tensor:
        return self.statistics(images)  # type: ignore[no-any-return]
