"""PIAD: perceptual image anomaly detection by two adversaries, one of images and one of latents.

Paper: Tuluptceva et al. 2019 (arXiv:1909.05904).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field, model_validator
from torch import nn

from napari_histoad.detectors._base import TileScores, descend, weighted_mean
from napari_histoad.detectors._features import to_pixels
from napari_histoad.detectors._perceptual import PerceptualDetector, PerceptualSettings, open_distance
from napari_histoad.networks.augment import turn
from napari_histoad.networks.autoencoder import critic, shrink
from napari_histoad.networks.perceptual import VectorAutoencoder, gradient_penalty, image_critic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["PerceptualGanDetector", "PerceptualGanSettings"]

_BETAS = (0.5, 0.99)
_WEIGH_EVERY, _SMOOTHING = 100, 0.05


class PerceptualGanSettings(PerceptualSettings):
    """Settings of PIAD.

    Attributes
    ----------
    input_px : int
        Side that tiles are resized to.
    widths : tuple of int
        Channels at each resolution, from the pixels inwards; the paper's default is 32, 64, 128, 256, 256.
    latent : int
        Length of the latent vector.
    max_steps, batch : int
        The paper trains for 100,000 steps.
    learning_rate, critic_rate : float
        Of encoder and decoder, and of the critics.
    critic_steps : int
        Steps of each critic per step of encoder and decoder.
    """

    input_px: int = Field(64, ge=32, le=256, multiple_of=32)
    widths: tuple[int, ...] = (32, 32, 64, 128)
    latent: int = Field(128, ge=2, le=1024)
    max_steps: int = Field(400, ge=1, le=1_000_000)
    batch: int = Field(16, ge=2, le=1024)
    learning_rate: float = Field(2e-4, gt=0, le=1)
    critic_rate: float = Field(5e-4, gt=0, le=1)
    critic_steps: int = Field(2, ge=1, le=10)

    @model_validator(mode="after")
    def _check(self) -> PerceptualGanSettings:
        if not 1 <= len(self.widths) <= 5 or not all(1 <= width <= 1024 for width in self.widths):
            raise ValueError("widths must be one to five numbers of channels")
        return self


class PerceptualGanDetector(PerceptualDetector):
    """Relative perceptual distance of a tile from its reconstruction by encoder and decoder, each trained against a critic."""

    name: ClassVar[str] = "perceptual_gan"
    title: ClassVar[str] = "Perceptual GAN (PIAD)"
    summary: ClassVar[str] = "Measures how different a tile looks from its reconstruction by a network trained against critics."
    learns_by_steps: ClassVar[bool] = True
    exports_onnx: ClassVar[bool] = True
    Settings = PerceptualGanSettings
    settings: PerceptualGanSettings
    network: VectorAutoencoder

    def __init__(self, settings: PerceptualGanSettings) -> None:
        super().__init__(settings)
        side = settings.input_px
        self.network = VectorAutoencoder(settings.widths, settings.latent, side)
        self.network.images, self.network.latents = image_critic(settings.widths, side), critic(settings.latent)
        self.distance, self.backbone = open_distance(settings)
        # Weights of the reconstruction against each critic, for encoder and decoder; in the network so that a run resumes.
        self.network.register_buffer("weights", torch.ones(2))
        self.network.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.unsaved += tuple(f"network.{name}" for name in ("images.", "latents.", "weights", "step"))

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def _pixels(self, images: Tensor) -> Tensor:
        return 2 * shrink(to_pixels(images), self.settings.input_px) - 1

    def distance_pixels(self, images: Tensor) -> Tensor:
        return (self._pixels(images) + 1) / 2

    def optimizers(self) -> list[torch.optim.Optimizer]:
        network, rate = self.network, self.settings.critic_rate
        own = [*network.encoder.parameters(), *network.decoder.parameters()]
        adversaries = [torch.optim.Adam(part.parameters(), lr=rate, betas=_BETAS) for part in (network.images, network.latents)]
        return [torch.optim.Adam(own, lr=self.settings.learning_rate, betas=_BETAS), *adversaries]

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        pixels = self._pixels(images)
        return {"loss": weighted_mean(self.distance((pixels + 1) / 2, (self.network(pixels) + 1) / 2)[0], weights)}

    def learn(
        self,
        images: Tensor,
        optimizers: list[torch.optim.Optimizer],
        backward: Callable[[Tensor], None],
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        generate, judge_images, judge_latents = optimizers
        found: dict[str, Tensor] = {}
        pixels = turn(self._pixels(images))
        for _ in range(self.settings.critic_steps):
            noise = torch.randn(len(pixels), self.settings.latent, device=pixels.device)
            with torch.no_grad():
                drawn, coded = self.network.decoder(noise).tanh(), self.network.encoder(pixels)
            with torch.autocast(pixels.device.type, enabled=False):
                loss, found["wasserstein of images"] = gradient_penalty(self.network.images, pixels, drawn.float())
                descend(loss, judge_images, backward)
                loss, found["wasserstein of latents"] = gradient_penalty(self.network.latents, noise, coded.float())
                descend(loss, judge_latents, backward)
        noise = torch.randn(len(pixels), self.settings.latent, device=pixels.device)
        against_images = -self.network.images(self.network.decoder(noise).tanh()).mean()
        against_latents = -weighted_mean(self.network.latents(self.network.encoder(pixels)), weights)
        reconstruction = weighted_mean(self.distance((pixels + 1) / 2, (self.network(pixels) + 1) / 2)[0], weights)
        balance: Tensor = self.network.weights  # type: ignore[assignment]
        if int(self.network.step) % _WEIGH_EVERY == 0:  # type: ignore[arg-type]
            parts = (self.network.encoder, self.network.decoder)
            now = [
                _balance(part, reconstruction, adv) for part, adv in zip(parts, (against_latents, against_images), strict=True)
            ]
            share = 1.0 if not int(self.network.step) else _SMOOTHING  # type: ignore[arg-type]
            balance.lerp_(torch.stack(now), share)
        self.network.step += 1  # type: ignore[operator, assignment]
        # One loss for encoder and decoder: the weight of the reconstruction divides each adversary's loss instead.
        loss = reconstruction + against_latents / balance[0] + against_images / balance[1]
        descend(loss, generate, backward)
        return {"loss": reconstruction, **found}

    def reconstruct(self, images: Tensor) -> Tensor:
        return (self.network(self._pixels(images)) + 1) / 2  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        return self.network.encoder(self._pixels(images)).float()  # type: ignore[no-any-return]

    def score(self, images: Tensor) -> TileScores:
        reconstruction = self.reconstruct(images)
        score, where = self.distance((self._pixels(images) + 1) / 2, reconstruction)
        return TileScores(score.float(), where, reconstruction)


def _balance(part: nn.Module, reconstruction: Tensor, against: Tensor) -> Tensor:
    """Return the weight that makes the gradients of reconstruction and adversary equal, the median over the layers."""
    layers = [p for p in part.parameters() if p.ndim > 1]
    of_critic, of_reconstruction = (torch.autograd.grad(loss, layers, retain_graph=True) for loss in (against, reconstruction))
    ratios = [a.norm() / r.norm().clamp_min(1e-12) for a, r in zip(of_critic, of_reconstruction, strict=True)]
    return torch.stack(ratios).median().clamp(1e-3, 1e6)
