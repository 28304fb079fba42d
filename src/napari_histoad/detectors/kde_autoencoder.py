"""An autoencoder and a kernel density of its latents: a rare latent or a large reconstruction error is anomalous.

The density is fitted to the latents of normal training tiles only, and never refitted on the tiles that are scored.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from napari_histoad.detectors._base import Detector, DetectorSettings, TileScores, weighted_mean
from napari_histoad.detectors._features import features_of, to_pixels
from napari_histoad.detectors._joined_criteria import criteria_scale, join_criteria
from napari_histoad.networks.augment import colour_jitter, turn
from napari_histoad.networks.autoencoder import ConvAutoencoder, VggAutoencoder, shrink
from napari_histoad.networks.fitted_module import FittedModule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["KdeAutoencoderDetector", "KdeAutoencoderSettings", "KernelDensity"]

_INPUT_PX = {"conv": 128, "vgg16": 224}


class KdeAutoencoderSettings(DetectorSettings):
    """Settings of the autoencoder with kernel density.

    Attributes
    ----------
    encoder : {"conv", "vgg16"}
        Network; tiles are resized to 128 or 224 px.
    criterion : {"both", "density", "error"}
    bandwidth : {"scott", "silverman"} or float
        Width of the kernel, in deviations of the principal components; the original takes 0.2 on raw latents.
    components : int
        Number of principal components of the latent that the density is fitted to: in thousands of dimensions a density
        is degenerate. 0 takes the latent itself.
    max_steps, batch, learning_rate : int, int, float
    """

    encoder: Literal["conv", "vgg16"] = "conv"
    criterion: Literal["both", "density", "error"] = "both"
    bandwidth: Literal["scott", "silverman"] | float = "scott"
    components: int = Field(16, ge=0, le=4096)
    max_steps: int = Field(400, ge=1, le=1_000_000)
    batch: int = Field(16, ge=2, le=1024)
    learning_rate: float = Field(1e-3, gt=0, le=1)


class KdeAutoencoderDetector(Detector):
    """Kernel density of the latent, and reconstruction error."""

    name: ClassVar[str] = "kde_autoencoder"
    title: ClassVar[str] = "Autoencoder with kernel density"
    summary: ClassVar[str] = "Finds tiles with a rare latent vector or a large reconstruction error."
    learns_by_steps: ClassVar[bool] = True
    Settings = KdeAutoencoderSettings
    settings: KdeAutoencoderSettings
    network: ConvAutoencoder | VggAutoencoder
    criteria: Tensor

    def __init__(self, settings: KdeAutoencoderSettings) -> None:
        super().__init__(settings)
        self.network = ConvAutoencoder() if settings.encoder == "conv" else VggAutoencoder()
        self._side = _INPUT_PX[settings.encoder]
        self.density = KernelDensity(settings.bandwidth, settings.components)
        self.hold("criteria", torch.tensor([[0.0, 1.0]] * 2))

    @property
    def allows_bfloat16(self) -> bool:
        return False  # a density is an exponential of squared distances

    @property
    def scores_any_batch_alike(self) -> bool:
        return False

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate)]

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        pixels = shrink(to_pixels(images), self._side)
        if self.network.training:
            pixels = colour_jitter(turn(pixels))
        return {"loss": weighted_mean((self.network(pixels)[0] - pixels).square(), weights)}

    def reconstruct(self, images: Tensor) -> Tensor:
        return self.network(shrink(to_pixels(images), self._side))[0]  # type: ignore[no-any-return]

    def features(self, images: Tensor) -> Tensor:
        latent: Tensor = self.network.encoder(shrink(to_pixels(images), self._side)).float().flatten(1)
        return self.density.project(latent)

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        def latent_and_error(part: Tensor) -> Tensor:
            latent, error, _ = self._compare(part)
            return torch.cat([latent, error.mean((1, 2))[:, None]], 1)

        found = features_of(latent_and_error, images, self.device)
        device = self.device
        own, kept = self.density.cpu().fit(found[:, :-1], robust=robust)
        self.density.to(device)
        self.keep(criteria=criteria_scale(torch.stack([own, found[:, -1].log()], 1)[kept]))

    def _compare(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = shrink(to_pixels(images), self._side)
        reconstruction, latent = self.network(pixels)
        return latent.flatten(1), (reconstruction - pixels).square().mean(1), reconstruction

    def score(self, images: Tensor) -> TileScores:
        latent, error, reconstruction = self._compare(images)
        values = torch.stack([-self.density.log_density(latent), error.mean((1, 2)).log()], 1)
        which = {"both": None, "density": 0, "error": 1}[self.settings.criterion]
        return TileScores(join_criteria(values, self.criteria, which), error, reconstruction)


class KernelDensity(FittedModule):
    """Gaussian kernel density of latents, on whitened principal components.

    Parameters
    ----------
    bandwidth : {"scott", "silverman"} or float
    components : int
        Number of principal components; 0 takes the latents as they are.
    """

    mean: Tensor
    axes: Tensor
    points: Tensor
    bandwidth: Tensor

    def __init__(self, bandwidth: str | float, components: int) -> None:
        super().__init__()
        self._rule, self._components = bandwidth, components
        for name in ("mean", "axes", "points"):
            self.hold(name, torch.zeros(1, 1), free=(0, 1))
        self.hold("bandwidth", torch.ones(()))

    def fit(self, latents: Tensor, *, robust: bool = False) -> tuple[Tensor, Tensor]:
        """Fit to latents (N, D) on the CPU; return the −log density (N,) of each under the others, and the rows used.

        With ``robust``, the tenth with the lowest density is left out and the rest is fitted again.
        """
        own, kept = self._fit(latents), torch.arange(len(latents))
        if robust:
            kept = own.argsort()[: math.ceil(0.9 * len(own))].sort().values
            own = own.index_put((kept,), self._fit(latents[kept]))
        return own, kept

    def _fit(self, latents: Tensor) -> Tensor:
        mean = latents.mean(0, keepdim=True)
        axes = torch.ones(1, 1)
        if self._components:
            _, values, vectors = torch.linalg.svd(latents - mean, full_matrices=False)
            k = min(self._components, len(latents) - 1, latents.shape[1])
            axes = vectors[:k].T * (math.sqrt(len(latents) - 1) / values[:k].clamp_min(1e-6))
        self.keep(mean=mean, axes=axes.contiguous())
        points = self.project(latents)
        n, d = points.shape
        rules = {"scott": n ** (-1 / (d + 4)), "silverman": (n * (d + 2) / 4) ** (-1 / (d + 4))}
        width = rules[self._rule] if isinstance(self._rule, str) else self._rule
        self.keep(points=points, bandwidth=torch.tensor(float(width)))
        parts: tuple[Tensor, ...] = torch.split(points, 512)
        return -torch.cat([self._log_density(part, leave_out=True) for part in parts])

    def project(self, latents: Tensor) -> Tensor:
        """Return the whitened principal components (B, k) of latents (B, D)."""
        return (latents - self.mean) @ self.axes if self._components else latents - self.mean

    def log_density(self, latents: Tensor) -> Tensor:
        """Return the logarithm of the density (B,) at latents (B, D)."""
        return self._log_density(self.project(latents), leave_out=False)

    def _log_density(self, x: Tensor, *, leave_out: bool) -> Tensor:
        """Return the logarithm of the density at projected latents; ``leave_out`` ignores the kernel of the point itself."""
        distances = torch.cdist(x, self.points, compute_mode="donot_use_mm_for_euclid_dist")
        exponents = -distances.square() / (2 * self.bandwidth**2)
        count = len(self.points)
        if leave_out:
            exponents = exponents.masked_fill(exponents > -1e-9, -torch.inf)
            count -= 1
        norm = math.log(max(1, count)) + x.shape[1] * (self.bandwidth.log() + 0.5 * math.log(2 * math.pi))
        return torch.logsumexp(exponents, 1) - norm

    def check_fit(self) -> None:
        if self.mean.shape[1] != (self.axes.shape[0] if self._components else self.points.shape[1]):
            raise ValueError("its density does not match its latents")
