"""What the VQ-VAE of features and its combination with other detectors share."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from napari_histoad.detectors._base import Detector, DetectorSettings, TileScores, weighted_mean
from napari_histoad.detectors._encoders import LITE, open_encoder
from napari_histoad.detectors._features import features_of, in_full_precision, to_pixels
from napari_histoad.detectors._fused_model import FusedModel, Magnitude
from napari_histoad.detectors._gaussian import Gaussian
from napari_histoad.networks.augment import turn
from napari_histoad.networks.feature_vqvae import FeatureVqVae, cell_features
from napari_histoad.networks.vqvae import perplexity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histoad.detectors._features import FeatureModel
    from napari_histoad.networks.encoder import EfficientNetLite

__all__ = ["FeatureVqVaeDetector", "FeatureVqVaeSettings"]

_CHANNELS = 320
_ESTIMATED_ON = 256
_FLOOR = 1e-6


class FeatureVqVaeSettings(DetectorSettings):
    """Settings of the training of a VQ-VAE of features.

    Attributes
    ----------
    quantizer : {"ema", "vq", "fsq"}
        See `napari_histoad.networks.vqvae.CodebookNetwork`.
    codebook_size : int
        Number of codes.
    max_steps, batch, learning_rate : int, int, float
        Gradient descent with AdamW.
    """

    quantizer: Literal["ema", "vq", "fsq"] = "ema"
    codebook_size: int = Field(256, ge=2, le=65_536)
    max_steps: int = Field(300, ge=1, le=1_000_000)
    batch: int = Field(16, ge=1, le=1024)
    learning_rate: float = Field(2e-3, gt=0, le=1)


class FeatureVqVaeDetector(Detector):
    """A detector with a VQ-VAE that reconstructs mid-level features of EfficientNet-Lite0.

    Attributes
    ----------
    encoder : EfficientNetLite
        Frozen; a detector file does not contain it.
    model : FusedModel
        Turns the features of the residuals into a distance.
    centre, scale : (C, 1, 1) float32
        Standardise the encoder's features.
    """

    settings: FeatureVqVaeSettings
    network: FeatureVqVae
    encoder: EfficientNetLite
    centre: Tensor
    scale: Tensor

    def __init__(self, settings: FeatureVqVaeSettings) -> None:
        super().__init__(settings)
        self.encoder, self.backbone = open_encoder(LITE, settings.tile_px)  # type: ignore[assignment]
        self.unsaved = ("encoder.",)
        self.network = FeatureVqVae(_CHANNELS, codebook_size=settings.codebook_size, quantizer=settings.quantizer)
        self.model = FusedModel(self._parts())
        self.hold("centre", torch.zeros(_CHANNELS, 1, 1))
        self.hold("scale", torch.ones(_CHANNELS, 1, 1))

    @property
    @abstractmethod
    def error(self) -> str:
        """What of the residual is scored: ``relative``, ``residuals`` or ``fused``, both."""

    def _parts(self) -> dict[str, tuple[int, FeatureModel]]:
        """Return the models of the features, with the number of features of each."""
        known = {"relative": (1, Magnitude()), "residuals": (2 * _CHANNELS, Gaussian(2 * _CHANNELS))}
        return {name: part for name, part in known.items() if self.error in (name, "fused")}

    @property
    def allows_bfloat16(self) -> bool:
        # Measured on 160 tiles of colon, two sets: 0.9988 with the pattern of the residuals, 0.9999 for the combination.
        return self.error == "relative"

    @property
    def scores_any_batch_alike(self) -> bool:
        return False

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def prepare(self, images: NDArray[np.uint8]) -> None:
        some = images[:: max(1, len(images) // _ESTIMATED_ON)][:_ESTIMATED_ON]
        maps = features_of(self._maps, some, self.device)
        deviation, centre = torch.std_mean(maps, dim=(0, 2, 3))
        self.keep(centre=centre[:, None, None], scale=1 / (deviation[:, None, None] + _FLOOR))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(self.network.parameters(), lr=self.settings.learning_rate)]

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        if self.network.training:
            images = turn(images.movedim(3, 1)).movedim(1, 3)
        with torch.no_grad():
            maps = self._standardised(images)
        out = self.network(maps)
        reconstruction = weighted_mean((out.reconstruction - maps).square(), weights)
        wanted = F.interpolate(to_pixels(images), out.picture.shape[2:], mode="area")
        picture = weighted_mean((out.picture - wanted).square(), weights)
        return {
            "loss": reconstruction + out.loss + picture,
            "reconstruction": reconstruction,
            "picture": picture,
            "quantisation": out.loss,
            "perplexity": perplexity(out.indices, self.network.codebook_size),
        }

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.network(self._standardised(images)).picture  # type: ignore[no-any-return]

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        self.fit_features(features_of(self.features, images, self.device), robust=robust)

    def fit_features(self, features: Tensor, *, robust: bool = False) -> None:
        """Fit the model of the residuals to the features (N, D) of normal tiles, on the CPU."""
        self.model.cpu().fit(features.numpy(), robust=robust)
        self.model.to(self.device)

    def balance(self, images: NDArray[np.uint8], groups: NDArray[np.int64], *, robust: bool = False) -> None:
        if len(self.model.parts) > 1:
            features = features_of(self.features, images, self.device)
            self.model.cpu().balance(features.numpy(), groups, robust=robust)
            self.model.to(self.device)

    def features(self, images: Tensor) -> Tensor:
        return self._described(images)[0]

    def score(self, images: Tensor) -> TileScores:
        features, relative, picture = self._described(images)
        with in_full_precision(images):
            return TileScores(self.model.distance(features), relative, picture)

    def _described(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features (B, D) of tiles, the relative error (B, h, w) of each cell, and the picture (B, 3, 4 h, 4 w)."""
        return self._residuals(self._standardised(images))

    def _residuals(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features of the residuals, the relative error of each cell, and the picture, of maps (B, C, h, w).

        The features are the logarithm of the relative error, which is large where the network fails, and for each channel the
        mean residual and the logarithm of the mean absolute residual, which also tell tiles that are reconstructed too well.
        """
        out = self.network(maps)
        with in_full_precision(maps):
            residual = maps - out.reconstruction
            relative = residual.square().sum(1) / maps.square().sum(1).clamp_min(_FLOOR)
            parts = [] if self.error == "residuals" else [relative.mean((1, 2))[:, None].clamp_min(_FLOOR).log()]
            if self.error != "relative":
                parts += [residual.mean((2, 3)), residual.abs().mean((2, 3)).clamp_min(_FLOOR).log()]
            return torch.cat(parts, 1), relative, out.picture

    def _standardised(self, images: Tensor) -> Tensor:
        return (self._maps(images) - self.centre) * self.scale

    def _maps(self, images: Tensor) -> Tensor:
        return cell_features(self.encoder.blocks(to_pixels(images), 5))
