"""Distance to the nearest normal tile, from a bank of bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_histoad.networks.constants import on_device

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bank", "coreset"]

_DRAWN_FIRST = 8
_PROJECTED = 64


class Bank:
    """Mean Euclidean distance to the k nearest of the kept features.

    Parameters
    ----------
    dimensions : int
    neighbours : int
        k.
    most : int
        Features kept at most; of more, a coreset is.

    Attributes
    ----------
    features : (M, D) float32
    """

    def __init__(self, dimensions: int, *, neighbours: int = 1, most: int = 20_000) -> None:
        self._neighbours, self._most = neighbours, most
        self.features = torch.zeros(1, dimensions)

    def fit(self, features: Tensor) -> None:
        """Keep features (N, D) float32, or a coreset of them."""
        self.features = features[coreset(features, self._most)].clone() if len(features) > self._most else features.clone()

    def bytes_for(self, normals: int) -> int:
        """Return the memory that the features kept of so many take."""
        return min(normals, self._most) * self.features.shape[1] * self.features.element_size()

    def distance(self, features: Tensor) -> Tensor:
        """Return the distances (B,) of features (B, D)."""
        return self._nearest(features, 0)

    def own_distances(self) -> Tensor:
        """Return the distance of each kept feature from the others, (M,)."""
        return torch.cat([self._nearest(part, 1) for part in torch.split(self.features, 1024)])

    def _nearest(self, features: Tensor, skipped: int) -> Tensor:
        bank = on_device(self.features, features.device)
        k = min(self._neighbours + skipped, len(bank))
        # Less the square of the asked, which does not change who is nearest.
        closeness = torch.addmm(bank.square().sum(1), features, bank.T, alpha=-2)
        # A minimum is found far faster than the k least.
        nearest = closeness.amin(1, keepdim=True) if k == 1 else closeness.topk(k, dim=1, largest=False).values
        distances = (nearest + features.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
        return distances[:, min(skipped, k - 1) :].mean(1)

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return the kept features under ``prefix``."""
        return {f"{prefix}.features": self.features.cpu()}

    def load_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take over what `state` returned."""
        features = state[f"{prefix}.features"].float()
        if features.ndim != 2 or features.shape[1] != self.features.shape[1] or not len(features):
            raise ValueError(f"bank of {tuple(features.shape)} given, {self.features.shape[1]} columns due")
        self.features = features


def coreset(features: Tensor, size: int, seed: int = 0) -> Tensor:
    """Return the rows (size,) int64 of a k-centre coreset of features (N, D): no normal kind is far from all of them.

    Greedy, on a random projection (Sener & Savarese 2018, arXiv:1708.00489; as in PatchCore, arXiv:2106.08265), from at
    most eight times as many rows drawn at random.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(features), generator=generator)[: _DRAWN_FIRST * size]
    x = features[drawn].float().cpu()
    if x.shape[1] > _PROJECTED:
        x = x @ (torch.randn(x.shape[1], _PROJECTED, generator=generator) / np.sqrt(_PROJECTED))
    squares = x.square().sum(1)
    distance = torch.full((len(x),), torch.inf)
    chosen = torch.zeros(size, dtype=torch.int64)
    for k in range(1, size):
        last = x[chosen[k - 1]]
        distance = torch.minimum(distance, squares - 2 * x @ last + last.square().sum())
        chosen[k] = distance.argmax()
    return drawn[chosen]
