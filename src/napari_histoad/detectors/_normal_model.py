"""What is normal in a space of tile features: a Gaussian of all normals, and the nearest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from napari_histoad.detectors._gaussian import Gaussian
from napari_histoad.detectors._neighbours import Bank
from napari_histoad.networks.constants import on_device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Measure", "NormalModel"]

Measure = Literal["fused", "mahalanobis", "neighbours"]
_FLOOR = 1e-6


class NormalModel:
    """Distance of features from those of normal tiles, by one of three measures.

    The Gaussian knows which features vary together but only one kind of normal; the nearest neighbour knows all kinds
    but weighs every feature alike. Fused, their logarithms are averaged, each in units of its deviation among the
    normals. That weighs them as a mean of ranks does, and unlike ranks it does not saturate beyond the normals.

    Parameters
    ----------
    dimensions : int
    measure : {"fused", "mahalanobis", "neighbours"}
    subspace : float
        Share of the normals' variance that is let pass: the Gaussian sees the residual to the principal components that
        explain it. 0 sees all.
    most : int
        Normals kept at most for the nearest neighbour.
    """

    def __init__(self, dimensions: int, measure: Measure = "fused", *, subspace: float = 0.0, most: int = 20_000) -> None:
        self._measure, self._subspace = measure, subspace
        self._gaussian = Gaussian(dimensions)
        self._residual = torch.eye(dimensions)
        self._bank = Bank(dimensions, most=most)
        self._mean, self._scale = torch.zeros(dimensions), torch.ones(dimensions)
        self._references = torch.tensor([[0.0, 1.0], [0.0, 1.0]])

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> None:
        """Fit to features (N, D) of normals, see `Gaussian.fit`; robust, the same tiles are kept as neighbours."""
        if self._subspace:
            self._residual = _residual_axes(features, self._subspace)
            self._gaussian = Gaussian(self._residual.shape[1], scaled=False)
        kept = self._gaussian.fit(features @ self._residual.numpy(), robust=robust)
        x = torch.from_numpy(features[kept]).float()
        deviation, self._mean = torch.std_mean(x, dim=0)
        self._scale = 1 / (deviation + _FLOOR * (1 + x.abs().amax(0)))
        self._bank.fit((x - self._mean) * self._scale)
        logs = [torch.log(d + _FLOOR) for d in (self._gaussian.distance(x @ self._residual).sqrt(), self._bank.own_distances())]
        self._references = torch.stack([torch.stack([log.mean(), log.std().clamp_min(_FLOOR)]) for log in logs])

    def distance(self, features: Tensor) -> Tensor:
        """Return the distances (B,) float32 of features (B, D); about 1 for normals, never negative."""
        features = features.float()
        if self._measure == "mahalanobis":
            return self._to_gaussian(features)
        if self._measure == "neighbours":
            return self._to_neighbours(features)
        mean, deviation = on_device(self._references, features.device).unbind(1)
        distances = torch.stack([self._to_gaussian(features), self._to_neighbours(features)], 1)
        weights = deviation.mean() / (2 * deviation)
        fused: Tensor = ((torch.log(distances + _FLOOR) - mean) * weights).sum(1).exp()
        return fused

    def _to_gaussian(self, features: Tensor) -> Tensor:
        squared: Tensor = self._gaussian.distance(features @ on_device(self._residual, features.device))
        return squared.sqrt()

    def _to_neighbours(self, features: Tensor) -> Tensor:
        mean, scale = on_device(self._mean, features.device), on_device(self._scale, features.device)
        return self._bank.distance((features - mean) * scale)

    def bank_bytes(self, normals: int) -> int:
        """Return how much memory the bank takes when it is fitted to so many normals."""
        return self._bank.bytes_for(normals)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return all that was fitted under ``prefix``."""
        parts = {"mean": self._mean, "scale": self._scale, "references": self._references}
        if self._subspace:
            parts["residual"] = self._residual
        own = {f"{prefix}.{name}": value for name, value in parts.items()}
        return {**own, **self._gaussian.state(f"{prefix}.gaussian"), **self._bank.state(f"{prefix}.bank")}

    def load_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take over what `state` returned."""
        if self._subspace:
            residual = state[f"{prefix}.residual"].float()
            if residual.ndim != 2 or residual.shape[0] != len(self._mean):
                raise ValueError(f"residual axes of {tuple(residual.shape)} given, {len(self._mean)} rows due")
            self._residual, self._gaussian = residual, Gaussian(residual.shape[1], scaled=False)
        self._gaussian.load_state(state, f"{prefix}.gaussian")
        self._bank.load_state(state, f"{prefix}.bank")
        mean, scale, references = (state[f"{prefix}.{name}"].float() for name in ("mean", "scale", "references"))
        if mean.shape != self._mean.shape or scale.shape != self._scale.shape or references.shape != (2, 2):
            raise ValueError(f"model of {tuple(mean.shape)} features given, {tuple(self._mean.shape)} due")
        self._mean, self._scale, self._references = mean, scale, references


def _residual_axes(features: NDArray[np.float32], share: float) -> Tensor:
    """Return axes (D, D - k) across the k principal components of the z-scored features that explain a share of them."""
    deviation, mean = torch.std_mean(torch.from_numpy(features).double(), dim=0)
    scale = 1 / (deviation + _FLOOR * (1 + mean.abs()))
    centred = (torch.from_numpy(features).double() - mean) * scale
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values = values.clamp_min(0)
    # From the largest; at least one axis is left.
    explained = values.flip(0).cumsum(0) / values.sum().clamp_min(_FLOOR)
    k = min(int((explained < share).sum()) + 1, len(values) - 1)
    axes: Tensor = (scale[:, None] * vectors[:, : len(values) - k]).float().contiguous()
    return axes
