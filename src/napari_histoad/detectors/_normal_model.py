"""A model of normal tile features that joins a Gaussian and the nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from napari_histoad.detectors._features import FeatureModel
from napari_histoad.detectors._gaussian import Gaussian
from napari_histoad.detectors._neighbours import Bank

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Measure", "NormalModel", "fused", "references"]

Measure = Literal["fused", "mahalanobis", "neighbours"]
_FLOOR = 1e-6


class NormalModel(FeatureModel):
    """Distance of features from those of normal tiles, by one of three measures.

    The Gaussian takes correlations of features into account but assumes a single kind of normal tissue; the nearest
    neighbour handles many kinds but weighs every feature alike. ``fused`` joins both, see `fused`.

    Parameters
    ----------
    dimensions : int
        Number of features D.
    measure : {"fused", "mahalanobis", "neighbours"}
    subspace : float
        Share of the variance of normal tiles that the leading principal components explain; the Gaussian is fitted to the
        residual of these. 0 fits it to the features themselves.
    max_size : int
        Maximum number of normal tiles in the bank of neighbours.
    """

    mean: Tensor
    scale: Tensor
    references: Tensor
    residual: Tensor

    def __init__(self, dimensions: int, measure: Measure = "fused", *, subspace: float = 0.0, max_size: int = 20_000) -> None:
        super().__init__()
        self._measure, self._subspace = measure, subspace
        self.gaussian = Gaussian(None if subspace else dimensions, scaled=not subspace)
        self.bank = Bank(dimensions, max_size=max_size)
        self.hold("mean", torch.zeros(dimensions))
        self.hold("scale", torch.ones(dimensions))
        self.hold("references", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        axes = torch.eye(dimensions)[:, :1] if subspace else torch.eye(dimensions)
        self.hold("residual", axes, free=(1,), persistent=bool(subspace))

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> None:
        """Fit to features (N, D) of normal tiles, see `Gaussian.fit`; the bank takes the rows that the Gaussian used."""
        if self._subspace:
            self.keep(residual=_residual_axes(features, self._subspace))
        kept = self.gaussian.fit(features @ self.residual.numpy(), robust=robust)
        x = torch.from_numpy(features[kept]).float()
        deviation, mean = torch.std_mean(x, dim=0)
        self.keep(mean=mean, scale=1 / (deviation + _FLOOR * (1 + x.abs().amax(0))))
        self.bank.fit((x - self.mean) * self.scale)
        distances = torch.stack([self.gaussian.distance(x @ self.residual).sqrt(), self.bank.own_distances()], 1)
        self.keep(references=references(torch.log(distances + _FLOOR)))

    def distance(self, features: Tensor) -> Tensor:
        """Return the distances (B,) float32 of features (B, D); about 1 for normal tiles, never negative."""
        features = features.float()
        if self._measure == "mahalanobis":
            return self._to_gaussian(features)
        if self._measure == "neighbours":
            return self._to_neighbours(features)
        distances = torch.stack([self._to_gaussian(features), self._to_neighbours(features)], 1)
        return fused(torch.log(distances + _FLOOR), self.references)

    def _to_gaussian(self, features: Tensor) -> Tensor:
        return self.gaussian.distance(features @ self.residual).sqrt()

    def _to_neighbours(self, features: Tensor) -> Tensor:
        return self.bank.distance((features - self.mean) * self.scale)

    def fitted_bytes(self, tiles: int) -> int:
        return self.bank.fitted_bytes(tiles)

    def check_fit(self) -> None:
        if self.residual.shape[1] != len(self.gaussian.mean):
            raise ValueError(f"its Gaussian has {len(self.gaussian.mean)} features instead of {self.residual.shape[1]}")


def references(logs: Tensor) -> Tensor:
    """Return mean and deviation (K, 2) of the logarithms (N, K) of K distances of normal tiles, which `fused` needs."""
    return torch.stack([logs.mean(0), logs.std(0).clamp_min(_FLOOR)], 1)


def fused(logs: Tensor, references: Tensor) -> Tensor:
    """Return one distance (B,) from the logarithms (B, K) of K distances; about 1 for normal tiles.

    It averages the logarithms, each divided by its deviation over the normal tiles. That weighs them as a mean of ranks does, but
    does not saturate beyond the normals.

    Parameters
    ----------
    references : (K, 2) tensor
        Of the normal tiles, see `references`.
    """
    mean, deviation = references.unbind(1)
    weights = deviation.mean() / (len(references) * deviation)
    return ((logs - mean) * weights).sum(1).exp()


def _residual_axes(features: NDArray[np.float32], share: float) -> Tensor:
    """Return axes (D, D - k) orthogonal to the k principal components that explain a share of the z-scored features' variance."""
    deviation, mean = torch.std_mean(torch.from_numpy(features).double(), dim=0)
    scale = 1 / (deviation + _FLOOR * (1 + mean.abs()))
    centred = (torch.from_numpy(features).double() - mean) * scale
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    values = values.clamp_min(0)
    # From the largest on; at least one axis remains.
    explained = values.flip(0).cumsum(0) / values.sum().clamp_min(_FLOOR)
    k = min(int((explained < share).sum()) + 1, len(values) - 1)
    axes: Tensor = (scale[:, None] * vectors[:, : len(values) - k]).float().contiguous()
    return axes
