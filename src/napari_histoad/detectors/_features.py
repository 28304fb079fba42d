"""Detectors that turn a tile into features and measure how far these lie from those of normal tiles."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

import torch

from napari_histoad.detectors._base import Detector, TileScores
from napari_histoad.networks.threads import map_in_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["FeatureDetector", "FeatureModel", "features_of", "in_full_precision", "to_pixels"]

_BATCH = 8


class FeatureModel(Protocol):
    """What is normal in a space of features."""

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> object:
        """Fit to features (N, D) of normals; robust, a few may be anomalies."""

    def distance(self, features: Tensor) -> Tensor:
        """Return how abnormal features (B, D) are, (B,) float32."""

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return all that was fitted under ``prefix``."""

    def load_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take over what `state` returned."""


class FeatureDetector(Detector):
    """A detector whose score is a distance in a space of features.

    Features are computed once and the model is fitted in no time, so that the engine can calibrate it on all tiles by
    cross-fitting instead of holding a quarter of them out.
    """

    model: FeatureModel

    @abstractmethod
    def codes(self, images: Tensor) -> Tensor:
        """Return the features (B, D) float32 of a batch."""

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        self.fit_codes(features_of(self.codes, images, self.device), robust=robust)
        self.fit_details(images)

    def fit_codes(self, codes: Tensor, *, robust: bool = False) -> None:
        """Fit the model to the features (N, D) of normal tiles."""
        self.model.fit(codes.numpy(), robust=robust)

    def fit_details(self, images: NDArray[np.uint8]) -> None:
        """Fit what draws the error map and does not touch the score."""

    def score(self, images: Tensor) -> TileScores:
        codes = self.codes(images).float()
        with in_full_precision(codes):
            return TileScores(self.model.distance(codes))

    def state(self) -> dict[str, Tensor]:
        return self.model.state("model")

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.model.load_state(state, "model")


def in_full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Return a context without autocast: a distance is the small difference of large products."""
    return torch.autocast(tensor.device.type, enabled=False)


def features_of(function: Callable[[Tensor], Tensor], images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return what a function of batches gives for tiles (N, H, W, 3) uint8, joined, float32 on the CPU."""

    def compute(first: int) -> Tensor:
        return function(torch.from_numpy(images[first : first + _BATCH]).to(device)).float().cpu()

    starts = range(0, len(images), _BATCH)
    with torch.inference_mode():
        return torch.cat(list(map_in_threads(compute, starts, device)))


def to_pixels(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) in [0, 1]: NHWC bytes seen as channels_last, no transposition."""
    return images.permute(0, 3, 1, 2).float() / 255
