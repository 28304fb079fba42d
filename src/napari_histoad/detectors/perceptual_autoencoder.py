"""Deep perceptual autoencoder: an anomaly looks different from its reconstruction.

Paper: Shvetsova et al. 2020 (arXiv:2006.13265).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from napari_histoad.detectors._base import TileScores, descend, weighted_mean
from napari_histoad.detectors._features import to_pixels
from napari_histoad.detectors._perceptual import PerceptualDetector, PerceptualSettings, open_distance
from napari_histoad.errors import SettingsError
from napari_histoad.networks.augment import crop, turn
from napari_histoad.networks.perceptual import GrowingAutoencoder, gradient_penalty, image_critic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["PerceptualAutoencoderDetector", "PerceptualAutoencoderSettings"]

_CROP_PX = 64
_CRITIC_STEPS = 2
_CRITIC_WIDTHS = (16, 32, 64)


class PerceptualAutoencoderSettings(PerceptualSettings):
    """Settings of the perceptual autoencoder; the defaults are those of the paper's cross-validated run with fewer steps.

    Attributes
    ----------
    width, latent : int
        Channels of all blocks and of the latent.
    stages : int
        Number of times that the resolution is halved: 3 gives a latent of 8 × 8 for the 64 px crops of training, 2 one of
        16 × 16.
    growing : bool
        Train from the innermost stage outwards, fade each stage in, and compare small tiles by shallower layers.
    l1 : float
        Weight of the absolute difference of pixels, added to the perceptual loss.
    wgan : float
        Weight of a WGAN-GP critic of the reconstructions.
    max_steps, batch, learning_rate : int, int, float
    """

    width: int = Field(16, ge=1, le=512)
    latent: int = Field(4, ge=1, le=512)
    stages: int = Field(3, ge=2, le=4)
    growing: bool = False
    l1: float = Field(0.0, ge=0, le=100)
    wgan: float = Field(0.0, ge=0, le=100)
    max_steps: int = Field(600, ge=1, le=1_000_000)
    batch: int = Field(16, ge=2, le=1024)
    learning_rate: float = Field(1e-3, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> PerceptualAutoencoderSettings:
        if self.tile_px % 2**self.stages:
            raise ValueError(f"tile_px must be a multiple of {2**self.stages} for {self.stages} stages")
        return self


class PerceptualAutoencoderDetector(PerceptualDetector):
    """Relative perceptual distance of a tile from its reconstruction."""

    name: ClassVar[str] = "perceptual_autoencoder"
    title: ClassVar[str] = "Perceptual autoencoder"
    summary: ClassVar[str] = "Measures how different a tile looks from its reconstruction by an autoencoder."
    learns_by_steps: ClassVar[bool] = True
    exports_onnx: ClassVar[bool] = True
    Settings = PerceptualAutoencoderSettings
    settings: PerceptualAutoencoderSettings
    network: GrowingAutoencoder

    def __init__(self, settings: PerceptualAutoencoderSettings) -> None:
        super().__init__(settings)
        self.network = GrowingAutoencoder(settings.width, settings.latent, settings.stages)
        self.distance, self.backbone = open_distance(settings, growing=settings.growing)
        self.unsaved += ("network.critic.", "network.step")
        if settings.wgan:
            self.network.critic = image_critic(_CRITIC_WIDTHS, _CROP_PX)
        self.network.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def check_trainable(self) -> None:
        if self.settings.wgan and self.settings.tile_px < _CROP_PX:
            what = f"the critic of wgan needs crops of {_CROP_PX} px, tiles have {self.settings.tile_px} px"
            raise SettingsError(what, f"use tiles of at least {_CROP_PX} px, or leave wgan out")

    def distance_pixels(self, images: Tensor) -> Tensor:
        return _middle(to_pixels(images))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        own = [parameter for name, parameter in self.network.named_parameters() if not name.startswith("critic.")]
        adam = torch.optim.Adam(own, lr=self.settings.learning_rate)
        if not self.settings.wgan:
            return [adam]
        return [adam, torch.optim.Adam(self.network.critic.parameters(), lr=self.settings.learning_rate / 5)]

    @property
    def fully_grown(self) -> bool:
        return self._growth() == (self.settings.stages - 1, 1.0)

    def stage(self) -> tuple[int, float]:
        """Return the current stage and its weight in [0, 1] while it is faded in."""
        return self._growth() if self.network.training else (self.settings.stages - 1, 1.0)

    @property
    def _judged(self) -> bool:
        """Whether the critic is in use: it is trained once the last stage is faded in."""
        return bool(self.settings.wgan) and self.fully_grown and self.settings.tile_px >= _CROP_PX

    def _growth(self) -> tuple[int, float]:
        """Return stage and weight at this step of training: stable 0 → fade 1 → stable 1 → fade 2 → stable 2."""
        last = self.settings.stages - 1
        if not self.settings.growing:
            return last, 1.0
        phases = 2 * last + 1
        at = int(self.network.step) / self.steps * phases  # type: ignore[arg-type]
        phase = min(int(at), phases - 1)
        return (phase + 1) // 2, (at - phase if phase % 2 else 1.0)

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        pixels = to_pixels(images)
        side = min(_CROP_PX, pixels.shape[-1])
        pixels = turn(crop(pixels, side)) if self.network.training else _middle(pixels)
        stage, alpha = self.stage()
        # An inner stage has smaller inputs; while it is faded in, they are blended with the resolution of the stage before.
        pixels = F.avg_pool2d(pixels, 2 ** (self.settings.stages - 1 - stage))
        if alpha < 1:
            blurred = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2.0)
            pixels = alpha * pixels + (1 - alpha) * blurred
        reconstruction = (self.network(2 * pixels - 1, stage, alpha) + 1) / 2
        inner = 1 - alpha if stage == self.settings.stages - 1 else 1.0
        found = {"perceptual": weighted_mean(self.distance(pixels, reconstruction, inner)[0], weights)}
        found["loss"] = found["perceptual"]
        if self.settings.l1:
            found["l1"] = weighted_mean((reconstruction - pixels).abs(), weights)
            found["loss"] = found["loss"] + self.settings.l1 * found["l1"]
        if self.network.training and self._judged:
            verdict = weighted_mean(self.network.critic(2 * reconstruction - 1), weights)
            found["loss"] = found["loss"] - self.settings.wgan * verdict
        return found

    def learn(
        self,
        images: Tensor,
        optimizers: list[torch.optim.Optimizer],
        backward: Callable[[Tensor], None],
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if self._judged:
            for _ in range(_CRITIC_STEPS):
                real = 2 * crop(to_pixels(images), _CROP_PX) - 1
                with torch.no_grad():
                    fake = self.network(real)
                with torch.autocast(real.device.type, enabled=False):
                    loss, found["wasserstein"] = gradient_penalty(self.network.critic, real, fake.float())
                descend(loss, optimizers[1], backward)
        found |= super().learn(images, optimizers, backward, weights)
        self.network.step += 1  # type: ignore[operator, assignment]
        return found

    def reconstruct(self, images: Tensor) -> Tensor:
        return ((self.network(2 * to_pixels(images) - 1) + 1) / 2).clamp(0, 1)  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        latent = self.network.encode(2 * to_pixels(images) - 1).float()
        return torch.cat([latent.mean((2, 3)), latent.std((2, 3))], 1)

    def score(self, images: Tensor) -> TileScores:
        reconstruction = self.reconstruct(images)
        score, where = self.distance(to_pixels(images), reconstruction)
        return TileScores(score.float(), where, reconstruction)


def _middle(pixels: Tensor) -> Tensor:
    """Return the central crop that the held-out loss is computed on."""
    side = min(_CROP_PX, pixels.shape[-1])
    first = (pixels.shape[-1] - side) // 2
    return pixels[:, :, first : first + side, first : first + side]
