"""What is normal in a space of tile features: a Gaussian of all normals, and the nearest of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from napari_histoad.detectors._gaussian import Gaussian
from napari_histoad.detectors._neighbours import Bank

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
    most : int
        Normals kept at most for the nearest neighbour.
    """

    def __init__(self, dimensions: int, measure: Measure = "fused", *, most: int = 20_000) -> None:
        self._measure = measure
        self._gaussian = Gaussian(dimensions)
        self._bank = Bank(dimensions, most=most)
        self._mean, self._scale = torch.zeros(dimensions), torch.ones(dimensions)
        self._references = torch.tensor([[0.0, 1.0], [0.0, 1.0]])

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> None:
        """Fit to features (N, D) of normals, see `Gaussian.fit`; robust, the same tiles are kept as neighbours."""
        kept = self._gaussian.fit(features, robust=robust)
        x = torch.from_numpy(features[kept]).float()
        deviation, self._mean = torch.std_mean(x, dim=0)
        self._scale = 1 / (deviation + _FLOOR * (1 + x.abs().amax(0)))
        self._bank.fit((x - self._mean) * self._scale)
        logs = [torch.log(d + _FLOOR) for d in (self._gaussian.distance(x).sqrt(), self._bank.own_distances())]
        self._references = torch.stack([torch.stack([log.mean(), log.std().clamp_min(_FLOOR)]) for log in logs])

    def distance(self, features: Tensor) -> Tensor:
        """Return the distances (B,) float32 of features (B, D); about 1 for normals, never negative."""
        features = features.float()
        device = features.device
        gaussian = neighbours = None
        if self._measure != "neighbours":
            gaussian = self._gaussian.distance(features).sqrt()
        if self._measure != "mahalanobis":
            neighbours = self._bank.distance((features - self._mean.to(device)) * self._scale.to(device))
        if gaussian is None or neighbours is None:
            single = gaussian if gaussian is not None else neighbours
            assert single is not None
            return single
        mean, deviation = self._references.to(device).unbind(1)
        logs = torch.log(torch.stack([gaussian, neighbours], 1) + _FLOOR)
        weights = deviation.mean() / (2 * deviation)
        return ((logs - mean) * weights).sum(1).exp()

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return all that was fitted under ``prefix``."""
        parts = {"mean": self._mean, "scale": self._scale, "references": self._references}
        own = {f"{prefix}.{name}": value for name, value in parts.items()}
        return {**own, **self._gaussian.state(f"{prefix}.gaussian"), **self._bank.state(f"{prefix}.bank")}

    def load_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take over what `state` returned."""
        self._gaussian.load_state(state, f"{prefix}.gaussian")
        self._bank.load_state(state, f"{prefix}.bank")
        mean, scale, references = (state[f"{prefix}.{name}"].float() for name in ("mean", "scale", "references"))
        if mean.shape != self._mean.shape or scale.shape != self._scale.shape or references.shape != (2, 2):
            raise ValueError(f"model of {tuple(mean.shape)} features given, {tuple(self._mean.shape)} due")
        self._mean, self._scale, self._references = mean, scale, references
