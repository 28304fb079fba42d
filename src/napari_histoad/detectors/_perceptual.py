"""Detectors that compare tiles with their reconstructions by a perceptual distance, and the frozen encoders it uses."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from napari_histoad.detectors._base import Detector, DetectorSettings, EncoderRecord
from napari_histoad.detectors._encoders import LITE, STARTER, open_encoder
from napari_histoad.networks.perceptual import LayerOutputs, PerceptualDistance, PixelOutputs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PerceptualDetector", "PerceptualSettings", "open_distance"]

_ESTIMATED_ON = 256
PIXELS = "pixels"
LAYERS = {"relu1_2": 3, "relu2_2": 8, "relu3_2": 13, "relu4_2": 22}
"""Positions of VGG19's layers in its sequence of modules."""
_STARTER_LAYERS = (1, 3, 5)
"""ReLUs of the starter model's encoder, at 1/2, 1/4 and 1/8 of the tile's side."""
_LITE_LAYERS = (1, 2, 3)
"""Blocks of EfficientNet-Lite0 after its stem, at the same sizes."""


class PerceptualSettings(DetectorSettings):
    """Settings that perceptual detectors share.

    Attributes
    ----------
    features : str
        Encoder of the perceptual distance: ``efficientnet-lite0``, trained on ImageNet and installed with this package; a VGG19
        of timm such as ``vgg19.tv_in1k``, which the papers use and whose weights must be on this machine; ``starter``, that of
        the starter model; or ``pixels``, none, the distance is of pixels.
    layer : {"relu1_2", "relu2_2", "relu3_2", "relu4_2"}
        Layer of VGG19.
    backbone_weights : Path or None
        File of VGG19's weights, if they were not downloaded. Not saved.
    """

    features: str = Field(LITE, pattern=r"^(efficientnet-lite0|starter|pixels|vgg19\.\S+)$")
    layer: str = Field("relu4_2", pattern="^relu[1-4]_2$")
    backbone_weights: Path | None = Field(None, exclude=True)


def open_distance(settings: PerceptualSettings, *, growing: bool = False) -> tuple[PerceptualDistance, EncoderRecord | None]:
    """Return the distance that the settings name, its constants not yet estimated, and the record of third-party weights.

    While a network grows, the distance uses the shallower layers: all but the deepest, or the one before it in VGG19.
    The paper takes relu3_2 until the tiles have their full size, then relu4_2.

    Raises
    ------
    EncoderError
        If the weights are not on this machine.
    """
    layers, record = _layers(settings, growing=growing)
    with torch.inference_mode():
        widths = [part.shape[1] for part in layers(torch.zeros(1, 3, 64, 64))]
    last = len(widths) - 1
    alone = settings.features not in (LITE, STARTER, PIXELS)
    return PerceptualDistance(layers, widths, outer=(last,) if alone else (), inner=range(last) if growing else ()), record


def _layers(settings: PerceptualSettings, *, growing: bool) -> tuple[nn.Module, EncoderRecord | None]:
    if settings.features == PIXELS:
        return PixelOutputs(), None
    encoder, record = open_encoder(settings.features, settings.tile_px, settings.backbone_weights)
    if settings.features == STARTER:
        return LayerOutputs(encoder.get_submodule("encoder.body"), _STARTER_LAYERS), record
    if settings.features == LITE:
        half = torch.full((3, 1, 1), 0.5)
        body = nn.Sequential(encoder.get_submodule("stem"), *encoder.get_submodule("stages").children())
        return LayerOutputs(body, _LITE_LAYERS, half, half.clone()), record
    names = list(LAYERS)
    chosen = names.index(settings.layer)
    positions = tuple(LAYERS[name] for name in names[max(0, chosen - growing) : chosen + 1])
    mean, std = encoder.get_buffer("mean"), encoder.get_buffer("std")
    return LayerOutputs(encoder.get_submodule("model.features"), positions, mean, std), record


class PerceptualDetector(Detector):
    """A detector whose score is the perceptual distance of a tile from its reconstruction.

    Attributes
    ----------
    network : Module
        The autoencoder, with what only its training needs as submodules and buffers.
    distance : PerceptualDistance
    """

    settings: PerceptualSettings
    network: nn.Module
    distance: PerceptualDistance

    def __init__(self, settings: PerceptualSettings) -> None:
        super().__init__(settings)
        self.unsaved = ("distance.layers.",)

    @property
    def allows_bfloat16(self) -> bool:
        return False  # a ratio of small differences

    @abstractmethod
    def distance_pixels(self, images: Tensor) -> Tensor:
        """Return the pixels (B, 3, h, w) in [0, 1] of a batch on which the constants of the distance are estimated."""

    def prepare(self, images: NDArray[np.uint8]) -> None:
        some = images[:: max(1, len(images) // _ESTIMATED_ON)][:_ESTIMATED_ON].copy()
        with torch.inference_mode():
            self.distance.estimate(self.distance_pixels(torch.from_numpy(some).to(self.device)))
