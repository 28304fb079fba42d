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
from napari_histoad.detectors._perception import PerceptualDetector, PerceptualSettings, open_distance
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
        Tiles are resized to this side.
    widths : tuple of int
        Channels at each resolution inwards; the paper's default is 32, 64, 128, 256, 256.
    latent : int
        Length of the latent vector.
    max_steps, batch : int
        The paper trains for 100,000 steps.
    learning_rate, critic_rate : float
        Of encoder and decoder, and of the critics, of which each makes ``critic_steps`` to one of theirs.
    critic_steps : int
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
    """Relative perceptual distance of a tile from what two generators between critics make of it."""

    name: ClassVar[str] = "perceptual_gan"
    title: ClassVar[str] = "Perceptual GAN (PIAD)"
    summary: ClassVar[str] = "Measures how different a tile looks from its reconstruction by a network trained against critics."
    learns_by_steps: ClassVar[bool] = True
    exports_onnx: ClassVar[bool] = True
    Settings = PerceptualGanSettings
    settings: PerceptualGanSettings

    def __init__(self, settings: PerceptualGanSettings) -> None:
        super().__init__(settings)
        side = settings.input_px
        self._autoencoder = VectorAutoencoder(settings.widths, settings.latent, side)
        self._of_images, self._of_latents = image_critic(settings.widths, side), critic(settings.latent)
        self._distance, self.backbone = open_distance(settings)
        self._network = nn.ModuleDict({"autoencoder": self._autoencoder, "images": self._of_images, "latents": self._of_latents})
        # Of the reconstruction against the critic, for encoder and decoder; kept with the network so that a run resumes.
        self._network.register_buffer("weights", torch.ones(2))
        self._network.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def _pixels(self, images: Tensor) -> Tensor:
        return 2 * shrink(to_pixels(images), self.settings.input_px) - 1

    def checked(self, images: Tensor) -> Tensor:
        return (self._pixels(images) + 1) / 2

    def optimizers(self) -> list[torch.optim.Optimizer]:
        ways = [(self._autoencoder, self.settings.learning_rate)]
        ways += [(part, self.settings.critic_rate) for part in (self._of_images, self._of_latents)]
        return [torch.optim.Adam(part.parameters(), lr=rate, betas=_BETAS) for part, rate in ways]

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        pixels = self._pixels(images)
        return {"loss": weighted_mean(self._distance((pixels + 1) / 2, (self._autoencoder(pixels) + 1) / 2)[0], weights)}

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
                drawn, coded = self._autoencoder.decoder(noise).tanh(), self._autoencoder.encoder(pixels)
            with torch.autocast(pixels.device.type, enabled=False):
                loss, found["wasserstein of images"] = gradient_penalty(self._of_images, pixels, drawn.float())
                descend(loss, judge_images, backward)
                loss, found["wasserstein of latents"] = gradient_penalty(self._of_latents, noise, coded.float())
                descend(loss, judge_latents, backward)
        noise = torch.randn(len(pixels), self.settings.latent, device=pixels.device)
        against_images = -self._of_images(self._autoencoder.decoder(noise).tanh()).mean()
        against_latents = -weighted_mean(self._of_latents(self._autoencoder.encoder(pixels)), weights)
        rebuilt = weighted_mean(self._distance((pixels + 1) / 2, (self._autoencoder(pixels) + 1) / 2)[0], weights)
        balance: Tensor = self._network.weights  # type: ignore[assignment]
        if int(self._network.step) % _WEIGH_EVERY == 0:  # type: ignore[arg-type]
            parts = (self._autoencoder.encoder, self._autoencoder.decoder)
            now = [_balance(part, rebuilt, adv) for part, adv in zip(parts, (against_latents, against_images), strict=True)]
            share = 1.0 if not int(self._network.step) else _SMOOTHING  # type: ignore[arg-type]
            balance.lerp_(torch.stack(now), share)
        self._network.step += 1  # type: ignore[operator, assignment]
        # One loss for both generators: each adversary's is divided by the weight of the reconstruction instead.
        loss = rebuilt + against_latents / balance[0] + against_images / balance[1]
        descend(loss, generate, backward)
        return {"loss": rebuilt, **found}

    def rebuild(self, images: Tensor) -> Tensor:
        rebuilt: Tensor = (self._autoencoder(self._pixels(images)) + 1) / 2
        return rebuilt

    def codes(self, images: Tensor) -> Tensor:
        latent: Tensor = self._autoencoder.encoder(self._pixels(images))
        return latent.float()

    def score(self, images: Tensor) -> TileScores:
        rebuilt = self.rebuild(images)
        score, where = self._distance((self._pixels(images) + 1) / 2, rebuilt)
        return TileScores(score.float(), where, rebuilt)


def _balance(part: nn.Module, rebuilt: Tensor, against: Tensor) -> Tensor:
    """Return the weight that gives the reconstruction as steep a gradient as the adversary: the median over the layers."""
    layers = [p for p in part.parameters() if p.ndim > 1]
    of_critic, of_rebuilt = (torch.autograd.grad(loss, layers, retain_graph=True) for loss in (against, rebuilt))
    ratios = [a.norm() / r.norm().clamp_min(1e-12) for a, r in zip(of_critic, of_rebuilt, strict=True)]
    return torch.stack(ratios).median().clamp(1e-3, 1e6)
