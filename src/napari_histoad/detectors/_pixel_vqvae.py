"""VQ-VAE of pixels: the detector ``vqvae`` with ``target: pixels``.

The error map is the channel mean of (x − x̂)². Papers: see `napari_histoad.networks.vqvae`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from napari_histoad.detectors._base import Detector, DetectorSettings, TileScores, weighted_mean
from napari_histoad.detectors._features import features_of, to_pixels
from napari_histoad.detectors._gaussian import Gaussian
from napari_histoad.detectors.vqvae import VqVaeDetector
from napari_histoad.errors import SettingsError
from napari_histoad.networks.augment import colour_jitter, crop, turn
from napari_histoad.networks.vqvae import CODE_DIM, VqVae, perplexity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histoad.networks.vqvae import VqVaeOutput

__all__ = ["PRESETS", "PixelVqVaeDetector", "PixelVqVaeSettings"]


PRESETS: dict[str, dict[str, Any]] = {
    "vit-32": {"patch": 8, "width": 256, "depth": 5, "heads": 4, "codebook_size": 512, "encoder": "vit", "decoder": "vit"},
    "vit-64": {"patch": 4, "width": 128, "depth": 5, "heads": 4, "codebook_size": 64, "encoder": "vit", "decoder": "conv"},
    "conv-32": {"patch": 8, "width": 64, "codebook_size": 256, "encoder": "conv", "decoder": "conv"},
}
"""Arguments of the network of pixels; the number in the name is the side of the latent grid of a 256 px tile."""


class PixelVqVaeSettings(DetectorSettings):
    """Settings of the VQ-VAE of pixels.

    Attributes
    ----------
    target : {"pixels"}
    preset : {"conv-32", "vit-32", "vit-64"}
        Network; ``conv-32`` suits CPUs.
    quantizer : {"ema", "vq", "fsq"}
    error : {"mean", "top_k", "p99", "ssim", "latent", "mahalanobis"}
        The tile score: mean of the error map, mean of its highest 10%, its 99th percentile, 1 − SSIM, distance of the
        latent from its code (not with FSQ), or Mahalanobis distance of the tile's latent statistics.
    max_steps, batch, learning_rate : int, int, float
        Gradient descent with Adam.
    crop_px : int or None
        Side of the random crops that ``conv-32`` is trained on, which is much faster than whole tiles; the networks with
        position embeddings need whole tiles. None takes half a tile for ``conv-32``, at least 64 px.
    reconstruction_scale : float or None
        Divides the squared error; None takes the variance of the training pixels.
    """

    target: Literal["pixels"] = "pixels"
    preset: Literal["conv-32", "vit-32", "vit-64"] = "conv-32"
    quantizer: Literal["ema", "vq", "fsq"] = "ema"
    error: Literal["mean", "top_k", "p99", "ssim", "latent", "mahalanobis"] = "mean"
    max_steps: int = Field(600, ge=1, le=1_000_000)
    batch: int = Field(16, ge=1, le=1024)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    crop_px: int | None = Field(None, ge=32)
    reconstruction_scale: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> PixelVqVaeSettings:
        patch = PRESETS[self.preset]["patch"]
        if self.tile_px % patch:
            raise ValueError(f"tile_px must be a multiple of {patch} for {self.preset}")
        if self.crop_px is not None and (self.crop_px % patch or self.crop_px > self.tile_px):
            raise ValueError(f"crop_px must be a multiple of {patch}, at most tile_px")
        if self.crop_px is not None and self.preset != "conv-32" and self.crop_px != self.tile_px:
            raise ValueError(f"{self.preset} is trained on whole tiles; leave crop_px out")
        return self


class PixelVqVaeDetector(Detector):
    """Reconstruction error of pixels."""

    name: ClassVar[str] = VqVaeDetector.name
    title: ClassVar[str] = VqVaeDetector.title
    summary: ClassVar[str] = "Measures how badly a network trained on normal tissue reconstructs the pixels of a tile."
    learns_by_steps: ClassVar[bool] = True
    exports_onnx: ClassVar[bool] = True
    earlier = VqVaeDetector.earlier
    Settings = PixelVqVaeSettings
    settings: PixelVqVaeSettings
    network: VqVae
    scale: Tensor

    def __init__(self, settings: PixelVqVaeSettings) -> None:
        super().__init__(settings)
        self.network = VqVae(tile_px=settings.tile_px, quantizer=settings.quantizer, **PRESETS[settings.preset])
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        half = max(64, settings.tile_px // 2 // 8 * 8) if settings.preset == "conv-32" else settings.tile_px
        self._crop_px = settings.crop_px or min(half, settings.tile_px)
        self.hold("scale", torch.tensor(settings.reconstruction_scale or 1.0))
        self.gaussian = Gaussian(2 * (CODE_DIM + 2))

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def check_trainable(self) -> None:
        if self.settings.quantizer == "fsq" and self.settings.error == "latent":
            # FSQ projects the latent to three numbers, rounds these and projects back: no loss makes both ends equal.
            what = "error: latent compares the latent with its code, but quantizer: fsq does not train them to be equal"
            raise SettingsError(what, "choose another error, or quantizer: ema or vq")

    def prepare(self, images: NDArray[np.uint8]) -> None:
        if self.settings.reconstruction_scale is None:
            self.scale.fill_(max(float((images[:: max(1, len(images) // 64)] / 255.0).var()), 1e-4))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate)]

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        pixels = to_pixels(images)
        if self.network.training:
            pixels = colour_jitter(turn(crop(pixels, self._crop_px)))
        out = self.network(pixels)
        reconstruction = weighted_mean((out.reconstruction - pixels).square(), weights) / self.scale
        return {
            "loss": reconstruction + out.loss,
            "reconstruction": reconstruction,
            "quantisation": out.loss,
            "perplexity": perplexity(out.indices, self.network.codebook_size),
        }

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        self.fit_features(features_of(self.features, images, self.device), robust=robust)

    def fit_features(self, features: Tensor, *, robust: bool = False) -> None:
        self.gaussian.fit(features.numpy(), robust=robust)

    @property
    def allows_bfloat16(self) -> bool:
        # Measured on 128 to 192 tiles of the sample slide with two networks: 0.998 for these, 0.9992 or more for the others.
        return self.settings.error not in ("mahalanobis", "p99")

    @property
    def scores_any_batch_alike(self) -> bool:
        return self.settings.error != "mahalanobis"

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.network(to_pixels(images)).reconstruction  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        pixels = to_pixels(images)
        out = self.network(pixels)
        return self._statistics(out, _squared_error(out, pixels))

    def score(self, images: Tensor) -> TileScores:
        pixels = to_pixels(images)
        out = self.network(pixels)
        error = _squared_error(out, pixels)
        kind = self.settings.error
        error_map: Tensor | None = error
        if kind == "mean":
            score = error.mean((1, 2))
        elif kind == "top_k":
            score = error.flatten(1).topk(max(1, error[0].numel() // 10), dim=1).values.mean(1)
        elif kind == "p99":
            score = error.flatten(1).quantile(0.99, dim=1)
        elif kind == "ssim":
            error_map = 1 - _ssim(out.reconstruction, pixels)
            score = error_map.mean((1, 2))
        elif kind == "latent":
            error_map = _code_distance(out)
            score = error_map.mean((1, 2))
        else:
            error_map = None
            score = self.gaussian.distance(self._statistics(out, error))
        return TileScores(score.float(), error_map, out.reconstruction)

    @staticmethod
    def _statistics(out: VqVaeOutput, error: Tensor) -> Tensor:
        """Return mean and deviation over the tile of latent, code distance and reconstruction error, (B, 2·66)."""
        cells = F.adaptive_avg_pool2d(error[:, None], (out.latent.shape[-2], out.latent.shape[-1])).sqrt()
        parts = torch.cat([out.latent, cells, _code_distance(out)[:, None].sqrt()], 1).float()
        return torch.cat([parts.mean((2, 3)), parts.std((2, 3))], 1)


def _squared_error(out: VqVaeOutput, pixels: Tensor) -> Tensor:
    return (out.reconstruction - pixels).square().mean(1)


def _code_distance(out: VqVaeOutput) -> Tensor:
    return (out.latent - out.code).square().mean(1)


def _ssim(a: Tensor, b: Tensor, window: int = 11) -> Tensor:
    """Return the structural similarity map of the grey images (Wang et al. 2004), uniform window, (B, H, W)."""
    x, y = a.mean(1, keepdim=True), b.mean(1, keepdim=True)

    def mean(t: Tensor) -> Tensor:
        return F.avg_pool2d(t, window, 1, window // 2, count_include_pad=False)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2)))[:, 0]
