"""Several models of the features of normal tiles whose distances are joined into one score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sklearn.model_selection import GroupKFold, KFold
from torch import nn

from napari_histoad.detectors._features import FeatureModel
from napari_histoad.detectors._normal_model import fused, references

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["FusedModel", "Magnitude"]

_FLOOR = 1e-6
_FOLDS = 5


class Magnitude(FeatureModel):
    """The distance is the feature itself, of which the logarithm is given; nothing is fitted."""

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> None:
        """Do nothing."""

    def distance(self, features: Tensor) -> Tensor:
        """Return the exponentials (B,) of features (B, 1)."""
        return features[:, 0].exp()


class FusedModel(FeatureModel):
    """The mean of the logarithms of several distances, each divided by its spread over normal tiles; see `fused`.

    Parameters
    ----------
    parts : mapping of str to (int, FeatureModel)
        Of each distance, the number of features and their model, in the order of the features.
    """

    references: Tensor

    def __init__(self, parts: Mapping[str, tuple[int, FeatureModel]]) -> None:
        super().__init__()
        self._sizes = [size for size, _ in parts.values()]
        self.parts = nn.ModuleDict({name: model for name, (_, model) in parts.items()})
        self.hold("references", torch.tensor([[0.0, 1.0]]).repeat(len(parts), 1))

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> None:
        """Fit each part to its columns of the features (N, D) of normal tiles."""
        known = torch.from_numpy(features)
        for part, columns in zip(self._models(), torch.split(known, self._sizes, dim=1), strict=True):
            part.fit(columns.numpy(), robust=robust)

    def balance(self, features: NDArray[np.float32], groups: NDArray[np.int64], *, robust: bool = False) -> None:
        """Measure the spread of each distance over normal tiles, each seen by parts that were fitted to other groups.

        It leaves the parts fitted to some of the tiles, so `fit` follows.

        Parameters
        ----------
        features : (N, D) float32
        groups : (N,) int64
            Folds never divide a group, unless there is only one.
        robust : bool
            See `fit`.
        """
        known = torch.from_numpy(features)
        logs = torch.empty(len(known), len(self.parts))
        for fitted, others in _folds(groups):
            self.fit(features[fitted], robust=robust)
            logs[others] = self._logs(known[others])
        self.keep(references=references(logs))

    def distance(self, features: Tensor) -> Tensor:
        """Return the distances (B,) float32 of features (B, D); about 1 for normal tiles, never negative."""
        return fused(self._logs(features.float()), self.references)

    def fitted_bytes(self, tiles: int) -> int:
        return sum(part.fitted_bytes(tiles) for part in self._models())

    def _logs(self, features: Tensor) -> Tensor:
        """Return the logarithms (B, K) of the distances."""
        pairs = zip(self._models(), torch.split(features, self._sizes, dim=1), strict=True)
        return torch.stack([torch.log(part.distance(columns) + _FLOOR) for part, columns in pairs], 1)

    def _models(self) -> list[FeatureModel]:
        return list(self.parts.values())  # type: ignore[arg-type]


def _folds(groups: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the rows that are fitted to, and the others, of each fold."""
    count = len(set(groups.tolist()))
    if count == 1:
        return KFold(min(_FOLDS, len(groups))).split(groups)  # type: ignore[no-any-return]
    return GroupKFold(min(_FOLDS, count)).split(groups, groups=groups)  # type: ignore[no-any-return]
