"""A Gaussian of normal features with a shrunk covariance, optionally robust against a few anomalies among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from napari_histoad.detectors._features import FeatureModel

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Gaussian"]

_KEPT = 0.9
_ROUNDS = 5


class Gaussian(FeatureModel):
    """Squared Mahalanobis distance per feature dimension (Ledoit & Wolf 2004 covariance).

    Parameters
    ----------
    dimensions : int or None
        Number of features D; None takes it from the features that it is fitted to.
    scaled : bool
        Whether features are standardised before the covariance is shrunk towards a multiple of the identity.

    Attributes
    ----------
    mean : (D,) float32
    whiten : (D, D) float32
        ``|(x - mean) @ whiten|²`` is the mean squared distance, about 1 for normal features.
    """

    mean: Tensor
    whiten: Tensor

    def __init__(self, dimensions: int | None, *, scaled: bool = True) -> None:
        super().__init__()
        self._scaled = scaled
        size = dimensions or 1
        self.hold("mean", torch.zeros(size), free=() if dimensions else (0,))
        self.hold("whiten", torch.eye(size) / size**0.5, free=() if dimensions else (0, 1))

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> NDArray[np.int64]:
        """Fit to features (N, D) of normal tiles and return which rows were used.

        With ``robust`` these are the nine tenths that are closest, found by concentration steps as in FAST-MCD
        (Rousseeuw & Van Driessen 1999) that start from coordinate-wise medians. Keeping fewer would drop whole kinds of
        normal tissue: with three quarters, the fat of the sample slide counts as anomalous (AUROC 0.65 instead of 0.99).
        """
        x = features.astype(np.float64)
        kept = np.arange(len(x))
        if robust and len(x) >= 8:
            centre = np.median(x, axis=0)
            spread = 1.4826 * np.median(np.abs(x - centre), axis=0) + 1e-9
            distance = (np.clip((x - centre) / spread, -10, 10) ** 2).sum(axis=1)
            for _ in range(_ROUNDS):
                kept = np.sort(np.argsort(distance)[: int(np.ceil(_KEPT * len(x)))])
                mean, whiten = self._estimate(x[kept])
                distance = (((x - mean) @ whiten) ** 2).sum(axis=1)
        else:
            mean, whiten = self._estimate(x)
        self.keep(mean=torch.from_numpy(mean), whiten=torch.from_numpy(whiten))
        return kept

    def _estimate(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return mean and whitening matrix of features (N, D)."""
        scale = x.std(axis=0) + 1e-6 * (1 + np.abs(x).max(axis=0)) if self._scaled else np.ones(x.shape[1])
        mean = x.mean(axis=0)
        precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit((x - mean) / scale).covariance_)
        root = np.linalg.cholesky(precision) / scale[:, None] / np.sqrt(x.shape[1])
        return mean.astype(np.float32), root.astype(np.float32)

    def distance(self, features: Tensor) -> Tensor:
        """Return the squared distances (B,) of features (B, D)."""
        return ((features.float() - self.mean) @ self.whiten).square().sum(dim=1)

    def check_fit(self) -> None:
        if self.whiten.shape != (len(self.mean), len(self.mean)):
            raise ValueError(f"a Gaussian of {len(self.mean)} features has a matrix of {tuple(self.whiten.shape)}")
