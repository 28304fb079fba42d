"""Autoencoder with a kernel density of its latents: too rare a latent, or too large an error.

The density is fitted to the latents of training normals only, saved, and never refitted on what is asked about.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from napari_histoad.detectors._base import Detector, DetectorSettings, TileScores, load_module, module_state, weighted_mean
from napari_histoad.detectors._criteria import Criteria
from napari_histoad.detectors._features import features_of, to_pixels
from napari_histoad.networks.augment import colour_jitter, turn
from napari_histoad.networks.autoencoder import ConvAutoencoder, VggAutoencoder, shrink
from napari_histoad.networks.constants import on_device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

__all__ = ["KdeAutoencoderDetector", "KdeAutoencoderSettings", "KernelDensity"]

_INPUT_PX = {"conv": 128, "vgg16": 224}


class KdeAutoencoderSettings(DetectorSettings):
    """Settings of the autoencoder with kernel density.

    Attributes
    ----------
    encoder : {"conv", "vgg16"}
        At 128 or 224 px; tiles are resized.
    criterion : {"both", "density", "error"}
    bandwidth : {"scott", "silverman"} or float
        Of the kernel, in deviations of the principal components; the original takes 0.2 on raw latents.
    components : int
        Principal components of the latent before the density: in its thousands of dimensions a density is degenerate.
        0 leaves them out.
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

    def __init__(self, settings: KdeAutoencoderSettings) -> None:
        super().__init__(settings)
        self._network = ConvAutoencoder() if settings.encoder == "conv" else VggAutoencoder()
        self._side = _INPUT_PX[settings.encoder]
        self._density = KernelDensity(settings.bandwidth, settings.components)
        self._criteria = Criteria(2)

    @property
    def network(self) -> nn.Module:
        return self._network

    @property
    def reduced_precision(self) -> bool:
        return False  # a density is an exponential of squared distances

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self._network.parameters(), lr=self.settings.learning_rate)]

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        pixels = shrink(to_pixels(images), self._side)
        if self._network.training:
            pixels = colour_jitter(turn(pixels))
        return {"loss": weighted_mean((self._network(pixels)[0] - pixels).square(), weights)}

    def rebuild(self, images: Tensor) -> Tensor:
        rebuilt: Tensor = self._network(shrink(to_pixels(images), self._side))[0]
        return rebuilt

    def codes(self, images: Tensor) -> Tensor:
        latent: Tensor = self._network.encoder(shrink(to_pixels(images), self._side)).float().flatten(1)
        return self._density.project(latent)

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        def latent_and_error(part: Tensor) -> Tensor:
            latent, error, _ = self._compare(part)
            return torch.cat([latent, error.mean((1, 2))[:, None]], 1)

        found = features_of(latent_and_error, images, self.device)
        own = self._density.fit(found[:, :-1], robust=robust)
        self._criteria.fit(torch.stack([own, found[:, -1].log()], 1)[self._density.kept])

    def _compare(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = shrink(to_pixels(images), self._side)
        reconstruction, latent = self._network(pixels)
        return latent.flatten(1), (reconstruction - pixels).square().mean(1), reconstruction

    def score(self, images: Tensor) -> TileScores:
        latent, error, reconstruction = self._compare(images)
        values = torch.stack([-self._density.log_density(latent), error.mean((1, 2)).log()], 1)
        which = {"both": None, "density": 0, "error": 1}[self.settings.criterion]
        return TileScores(self._criteria.join(values, which), error, reconstruction)

    def state(self) -> dict[str, Tensor]:
        return {**module_state("network", self._network), **self._density.state("density"), **self._criteria.state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_module(state, "network", self._network)
        self._density.load_state(state, "density")
        self._criteria.load_state(state)


class KernelDensity:
    """Gaussian kernel density of latents, on whitened principal components.

    Parameters
    ----------
    bandwidth : {"scott", "silverman"} or float
    components : int
        0: the latents as they are.
    """

    def __init__(self, bandwidth: str | float, components: int) -> None:
        self._rule, self._components = bandwidth, components
        self.kept: Tensor = torch.zeros(0, dtype=torch.int64)
        self._parts = {name: torch.zeros(1, 1) for name in ("mean", "axes", "points")} | {"bandwidth": torch.ones(())}

    def fit(self, latents: Tensor, *, robust: bool = False) -> Tensor:
        """Fit to latents (N, D) and return each one's −log density under the others, (N,).

        Robust, the tenth in the rarest places is then left out and the rest fitted again.
        """
        own = self._fit(latents)
        self.kept = torch.arange(len(latents))
        if robust:
            self.kept = own.argsort()[: math.ceil(0.9 * len(own))].sort().values
            own = own.index_put((self.kept,), self._fit(latents[self.kept]))
        return own

    def _fit(self, latents: Tensor) -> Tensor:
        mean = latents.mean(0, keepdim=True)
        if self._components:
            _, values, vectors = torch.linalg.svd(latents - mean, full_matrices=False)
            k = min(self._components, len(latents) - 1, latents.shape[1])
            axes = vectors[:k].T * (math.sqrt(len(latents) - 1) / values[:k].clamp_min(1e-6))
        else:
            axes = torch.ones(1, 1)
        self._parts |= {"mean": mean, "axes": axes.contiguous()}
        points = self.project(latents)
        n, d = points.shape
        rules = {"scott": n ** (-1 / (d + 4)), "silverman": (n * (d + 2) / 4) ** (-1 / (d + 4))}
        width = rules[self._rule] if isinstance(self._rule, str) else self._rule
        self._parts |= {"points": points, "bandwidth": torch.tensor(float(width))}
        parts: tuple[Tensor, ...] = torch.split(points, 512)
        return -torch.cat([self._log_density(part, itself=True) for part in parts])

    def project(self, latents: Tensor) -> Tensor:
        """Return the whitened principal components (B, k) of latents (B, D)."""
        centred = latents - on_device(self._parts["mean"], latents.device)
        return centred @ on_device(self._parts["axes"], latents.device) if self._components else centred

    def log_density(self, latents: Tensor) -> Tensor:
        """Return the logarithm of the density (B,) at latents (B, D)."""
        return self._log_density(self.project(latents), itself=False)

    def _log_density(self, x: Tensor, *, itself: bool) -> Tensor:
        points, width = (on_device(self._parts[name], x.device) for name in ("points", "bandwidth"))
        exponents = -torch.cdist(x, points, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * width**2)
        count = len(points)
        if itself:  # the point's own kernel says nothing of it
            exponents = exponents.masked_fill(exponents > -1e-9, -torch.inf)
            count -= 1
        norm = math.log(max(1, count)) + x.shape[1] * (width.log() + 0.5 * math.log(2 * math.pi))
        return torch.logsumexp(exponents, 1) - norm

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return all that was fitted under ``prefix``."""
        return {f"{prefix}.{name}": value for name, value in self._parts.items()}

    def load_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take over what `state` returned."""
        parts = {name: state[f"{prefix}.{name}"].float() for name in self._parts}
        if parts["mean"].shape[1] != (parts["axes"].shape[0] if self._components else parts["points"].shape[1]):
            raise ValueError("its density does not fit its latents")
        self._parts = parts
