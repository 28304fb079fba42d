"""Detectors that turn a tile into features and measure their distance from those of normal tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch

from napari_histoad.detectors._base import Detector, TileScores
from napari_histoad.networks.fitted_module import FittedModule
from napari_histoad.networks.threads import map_in_threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["FeatureDetector", "FeatureModel", "features_of", "in_full_precision", "to_pixels"]

_BATCH = 8


class FeatureModel(FittedModule, ABC):
    """A model of the features of normal tiles."""

    @abstractmethod
    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> object:
        """Fit to features (N, D) of normal tiles, on the CPU; ``robust`` leaves out the most unusual ones."""

    @abstractmethod
    def distance(self, features: Tensor) -> Tensor:
        """Return the distances (B,) float32 of features (B, D) from the normal ones."""

    def fitted_bytes(self, tiles: int) -> int:  # noqa: ARG002 - most keep no tiles
        """Return the memory in bytes of what is kept of the features of ``tiles`` normal tiles; 0 where it is little."""
        return 0


class FeatureDetector(Detector):
    """A detector whose score is a distance in a space of features.

    Features are computed once and fitting the model is fast, so the engine can calibrate it on all tiles by
    cross-fitting instead of holding a quarter of them out.

    Attributes
    ----------
    model : FeatureModel
    """

    model: FeatureModel

    @property
    def scores_any_batch_alike(self) -> bool:
        return False

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, D) float32 of a batch (B, H, W, 3) uint8."""

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        self.fit_features(features_of(self.features, images, self.device), robust=robust)
        self.fit_error_map(images)

    def fit_features(self, features: Tensor, *, robust: bool = False) -> None:
        """Fit the model to the features (N, D) of normal tiles, on the CPU."""
        device = self.device
        self.model.cpu().fit(features.numpy(), robust=robust)
        self.model.to(device)

    def fit_error_map(self, images: NDArray[np.uint8]) -> None:
        """Fit what only the error map needs on normal tiles (N, H, W, 3) uint8."""

    def score(self, images: Tensor) -> TileScores:
        features = self.features(images).float()
        with in_full_precision(features):
            return TileScores(self.model.distance(features))


def in_full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Return a context without autocast: a distance is the small difference of large products."""
    return torch.autocast(tensor.device.type, enabled=False)


def features_of(function: Callable[[Tensor], Tensor], images: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return the results of a function of batches for tiles (N, H, W, 3) uint8, concatenated, float32 on the CPU."""

    def compute(first: int) -> Tensor:
        return function(torch.from_numpy(images[first : first + _BATCH]).to(device)).float().cpu()

    starts = range(0, len(images), _BATCH)
    with torch.inference_mode():
        return torch.cat(list(map_in_threads(compute, starts, device)))


def to_pixels(images: Tensor) -> Tensor:
    """Return images (B, H, W, 3) uint8 as pixels (B, 3, H, W) float32 in [0, 1]; the memory stays in channels_last order."""
    return images.permute(0, 3, 1, 2).float() / 255
