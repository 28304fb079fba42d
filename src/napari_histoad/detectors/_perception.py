"""The frozen networks whose eyes a perceptual distance sees with."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from napari_histoad.detectors._backbone import STARTER, open_backbone
from napari_histoad.detectors._base import BackboneRecord, Detector, DetectorSettings, load_module, module_state
from napari_histoad.networks.perceptual import PerceptualDistance

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["PerceptualDetector", "PerceptualSettings", "open_distance"]

_ESTIMATED_ON = 256
PIXELS = "pixels"
LAYERS = {"relu1_2": 3, "relu2_2": 8, "relu3_2": 13, "relu4_2": 22}
"""Positions in the features of VGG19."""
_STARTER_LAYERS = (1, 3, 5)
"""ReLUs of the starter model's encoder: 1/2, 1/4 and 1/8 of the tile's side."""


class PerceptualSettings(DetectorSettings):
    """What perceptual detectors share.

    Attributes
    ----------
    features : str
        Network of the perceptual distance: ``starter``, the bundled encoder; ``pixels``, plain differences; or a VGG19 of
        timm's such as ``vgg19.tv_in1k``, which the papers use and whose weights must be on this machine.
    layer : {"relu1_2", "relu2_2", "relu3_2", "relu4_2"}
        Of VGG19.
    backbone_weights : Path or None
        File of VGG19's weights, where they were not downloaded. Not part of what is saved.
    """

    features: str = Field(STARTER, pattern=r"^(starter|pixels|vgg19\.\S+)$")
    layer: str = Field("relu4_2", pattern="^relu[1-4]_2$")
    backbone_weights: Path | None = Field(None, exclude=True)


def open_distance(settings: PerceptualSettings, *, growing: bool = False) -> tuple[PerceptualDistance, BackboneRecord | None]:
    """Return the distance that the settings name, its constants still unknown, and whose weights it rests on.

    For a growing network its inner layers are all but the deepest; of VGG19 it is the one before: relu3_2 until tiles
    are whole, then relu4_2, in the paper.

    Raises
    ------
    BackboneError
        If the weights are not on this machine.
    """
    layers, record = _layers(settings, growing=growing)
    with torch.inference_mode():
        widths = [part.shape[1] for part in layers(torch.zeros(1, 3, 64, 64))]
    last = len(widths) - 1
    alone = settings.features not in (STARTER, PIXELS)
    return PerceptualDistance(layers, widths, outer=(last,) if alone else (), inner=range(last) if growing else ()), record


def _layers(settings: PerceptualSettings, *, growing: bool) -> tuple[Callable[[Tensor], list[Tensor]], BackboneRecord | None]:
    if settings.features == PIXELS:
        return lambda pixels: [pixels], None
    encoder: Any
    encoder, record = open_backbone(settings.features, settings.tile_px, settings.backbone_weights)
    if settings.features == STARTER:
        return _Taps(encoder.encoder.body, _STARTER_LAYERS), record
    names = list(LAYERS)
    chosen = names.index(settings.layer)
    taps = _Taps(encoder.model.features, tuple(LAYERS[name] for name in names[max(0, chosen - growing) : chosen + 1]))
    return lambda pixels: taps((pixels - encoder.mean.to(pixels.device)) / encoder.std.to(pixels.device)), record


class PerceptualDetector(Detector):
    """An autoencoder whose reconstructions are judged by a perceptual distance."""

    settings: PerceptualSettings
    _autoencoder: Any
    _distance: PerceptualDistance
    _network: nn.ModuleDict

    @property
    def network(self) -> nn.Module:
        return self._network

    @property
    def reduced_precision(self) -> bool:
        return False  # a ratio of small differences

    @abstractmethod
    def checked(self, images: Tensor) -> Tensor:
        """Return the pixels in [0, 1] that the constants of the distance are estimated on."""

    def prepare(self, images: NDArray[np.uint8]) -> None:
        some = images[:: max(1, len(images) // _ESTIMATED_ON)][:_ESTIMATED_ON].copy()
        with torch.inference_mode():
            self._distance.estimate(self.checked(torch.from_numpy(some).to(self.device)))

    def state(self) -> dict[str, Tensor]:
        return {**module_state("network", self._autoencoder), **module_state("distance", self._distance)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_module(state, "network", self._autoencoder)
        load_module(state, "distance", self._distance)

    def to(self, device: torch.device) -> None:
        super().to(device)
        self._distance.to(device)


class _Taps(nn.Module):
    """Outputs of some modules of a sequence; those behind the last are not run."""

    def __init__(self, body: nn.Sequential, at: tuple[int, ...]) -> None:
        super().__init__()
        self.body, self._at = body[: at[-1] + 1].requires_grad_(requires_grad=False), at

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        self.body.to(x.device)
        for k, module in enumerate(self.body.children()):
            x = module(x)
            if k in self._at:
                found.append(x)
        return found
