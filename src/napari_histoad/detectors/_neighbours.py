"""Distance to the nearest normal tiles, kept in a bank of limited size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_histoad.networks.fitted_module import FittedModule

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bank", "coreset"]

_DRAWN_FIRST = 8
_PROJECTED = 64


class Bank(FittedModule):
    """Mean Euclidean distance to the k nearest of a bank of normal features.

    Parameters
    ----------
    dimensions : int
        Number of features D.
    neighbours : int
        k.
    max_size : int
        Maximum number of normal tiles M in the bank; a coreset is taken of more.

    Attributes
    ----------
    features : (M, D) float32
    """

    features: Tensor

    def __init__(self, dimensions: int, *, neighbours: int = 1, max_size: int = 20_000) -> None:
        super().__init__()
        self._neighbours, self._max_size = neighbours, max_size
        self.hold("features", torch.zeros(1, dimensions), free=(0,))

    def fit(self, features: Tensor) -> None:
        """Keep features (N, D) float32, or a coreset of them."""
        self.keep(features=features[coreset(features, self._max_size)] if len(features) > self._max_size else features)

    def fitted_bytes(self, tiles: int) -> int:
        """Return the memory in bytes of a bank fitted to ``tiles`` normal tiles."""
        return min(tiles, self._max_size) * self.features.shape[1] * self.features.element_size()

    def check_fit(self) -> None:
        if not len(self.features):
            raise ValueError("its bank of normal features is empty")

    def distance(self, features: Tensor) -> Tensor:
        """Return the distances (B,) float32 of features (B, D)."""
        return self._nearest(features, 0)

    def own_distances(self) -> Tensor:
        """Return the distance of each row of the bank from the other rows, (M,)."""
        return torch.cat([self._nearest(part, 1) for part in torch.split(self.features, 1024)])

    def _nearest(self, features: Tensor, skipped: int) -> Tensor:
        bank = self.features
        k = min(self._neighbours + skipped, len(bank))
        # Without the square of the query, which does not change the order.
        closeness = torch.addmm(bank.square().sum(1), features, bank.T, alpha=-2)
        # amin is much faster than topk.
        nearest = closeness.amin(1, keepdim=True) if k == 1 else closeness.topk(k, dim=1, largest=False).values
        distances = (nearest + features.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
        return distances[:, min(skipped, k - 1) :].mean(1)


def coreset(features: Tensor, size: int, seed: int = 0) -> Tensor:
    """Return the rows (size,) int64 of a k-centre coreset of features (N, D): every kind of normal tile is near one of them.

    Greedy selection on a random projection (Sener & Savarese 2018, arXiv:1708.00489; as in PatchCore, arXiv:2106.08265)
    among at most eight times as many rows, drawn at random.
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
