"""Adversarial autoencoder: an anomaly has a large reconstruction error or a latent that is unlikely under the prior.

Paper: Beggel, Pfeiffer & Bischl 2019 (arXiv:1901.06355). Its refinement of the training set is an option for every
detector, see `napari_histoad.engine.fit_job`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from napari_histoad.detectors._base import Detector, DetectorSettings, TileScores, descend, weighted_mean
from napari_histoad.detectors._features import features_of, to_pixels
from napari_histoad.detectors._joined_criteria import criteria_scale, join_criteria
from napari_histoad.networks.augment import colour_jitter, turn
from napari_histoad.networks.autoencoder import DenseAutoencoder, critic, shrink

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["AdversarialAutoencoderDetector", "AdversarialAutoencoderSettings"]


class AdversarialAutoencoderSettings(DetectorSettings):
    """Settings of the adversarial autoencoder.

    Attributes
    ----------
    encoder : {"conv", "dense"}
        ``conv`` puts three strided convolutions before the paper's two layers of 1000 units, ``dense`` has only these.
    code : int
        Length of the latent vector; 2 in the paper.
    input_px : int
        Side that tiles are resized to.
    criterion : {"both", "prior", "error"}
        Which of the two criteria the score uses.
    max_steps, batch, learning_rate : int, int, float
    """

    encoder: Literal["conv", "dense"] = "conv"
    code: int = Field(16, ge=1, le=1024)
    input_px: int = Field(64, ge=16, le=256, multiple_of=8)
    criterion: Literal["both", "prior", "error"] = "both"
    max_steps: int = Field(600, ge=1, le=1_000_000)
    batch: int = Field(32, ge=2, le=1024)
    learning_rate: float = Field(1e-3, gt=0, le=1)


class AdversarialAutoencoderDetector(Detector):
    """Reconstruction error, and how unlikely the latent is under N(0, I)."""

    name: ClassVar[str] = "adversarial_autoencoder"
    title: ClassVar[str] = "Adversarial autoencoder"
    summary: ClassVar[str] = "Finds tiles with a large reconstruction error or an unlikely latent vector."
    learns_by_steps: ClassVar[bool] = True
    exports_onnx: ClassVar[bool] = True
    Settings = AdversarialAutoencoderSettings
    settings: AdversarialAutoencoderSettings
    network: nn.ModuleDict
    criteria: Tensor

    def __init__(self, settings: AdversarialAutoencoderSettings) -> None:
        super().__init__(settings)
        autoencoder = DenseAutoencoder(settings.input_px, settings.code, convolutional=settings.encoder == "conv")
        self.network = nn.ModuleDict({"autoencoder": autoencoder, "critic": critic(settings.code)})
        self.hold("criteria", torch.tensor([[0.0, 1.0]] * 2))

    @property
    def _autoencoder(self) -> DenseAutoencoder:
        return self.network["autoencoder"]  # type: ignore[return-value]

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def optimizers(self) -> list[torch.optim.Optimizer]:
        rate = self.settings.learning_rate
        return [
            torch.optim.Adam(self._autoencoder.parameters(), lr=rate),
            torch.optim.Adam(self.network["critic"].parameters(), lr=rate / 2),
            torch.optim.Adam(self._autoencoder.encoder.parameters(), lr=rate / 2),
        ]

    def _pixels(self, images: Tensor) -> Tensor:
        return shrink(to_pixels(images), self.settings.input_px)

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        pixels = self._pixels(images)
        if self.network.training:
            pixels = colour_jitter(turn(pixels))
        return {"loss": weighted_mean((self._autoencoder(pixels)[0] - pixels).square(), weights)}

    def learn(
        self,
        images: Tensor,
        optimizers: list[torch.optim.Optimizer],
        backward: Callable[[Tensor], None],
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        reconstruct, judge, deceive = optimizers
        losses = super().learn(images, [reconstruct], backward, weights)
        pixels = self._pixels(images)
        code = self._autoencoder.encoder(pixels).float()
        prior = torch.randn_like(code)
        logits = self.network["critic"](torch.cat([prior, code.detach()])).float()[:, 0]
        of_prior = torch.ones(len(prior), device=logits.device)
        of_code = torch.ones_like(of_prior) if weights is None else weights
        real = torch.cat([of_prior, torch.zeros_like(of_prior)])
        both = torch.cat([of_prior, of_code])
        judged = weighted_mean(F.binary_cross_entropy_with_logits(logits, real, reduction="none"), both)
        descend(judged, judge, backward)
        passed = self.network["critic"](code).float()[:, 0]
        deceived = weighted_mean(F.binary_cross_entropy_with_logits(passed, torch.ones_like(passed), reduction="none"), of_code)
        descend(deceived, deceive, backward)
        return {**losses, "critic": judged, "deception": deceived}

    def reconstruct(self, images: Tensor) -> Tensor:
        return self._autoencoder(self._pixels(images))[0]  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        return self._autoencoder.encoder(self._pixels(images)).float()  # type: ignore[no-any-return]

    def _compare(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return criteria (B, 2), error maps and reconstructions."""
        pixels = self._pixels(images)
        reconstruction, code = self._autoencoder(pixels)
        error = (reconstruction - pixels).square().mean(1)
        # −log p(z) of N(0, I), up to a constant.
        values = torch.stack([code.square().sum(1) / 2, error.mean((1, 2)).log()], 1)
        return values, error, reconstruction

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        values = features_of(lambda part: self._compare(part)[0], images, self.device)
        if robust:
            values = values[values[:, 1] <= values[:, 1].quantile(0.9)]
        self.keep(criteria=criteria_scale(values))

    def score(self, images: Tensor) -> TileScores:
        values, error, reconstruction = self._compare(images)
        which = {"both": None, "prior": 0, "error": 1}[self.settings.criterion]
        return TileScores(join_criteria(values, self.criteria, which), error, reconstruction)
