"""Isolation forest on the pooled features of an encoder.

Liu et al. 2008 (doi:10.1109/ICDM.2008.17); fitted by scikit-learn, scored from tensors on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from sklearn.ensemble import IsolationForest

from napari_histoad.detectors._features import FeatureModel
from napari_histoad.detectors.embedding import EncoderDetector, EncoderSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["DeepIsolationForestDetector", "DeepIsolationForestSettings", "Forest"]

_ROBUST_KEPT = 0.9


class DeepIsolationForestSettings(EncoderSettings):
    """Settings of the deep isolation forest.

    Attributes
    ----------
    trees : int
    """

    trees: int = Field(300, ge=10, le=5000)


class DeepIsolationForestDetector(EncoderDetector):
    """How few random splits isolate the features of a tile from those of normal tiles."""

    name: ClassVar[str] = "deep_isolation_forest"
    title: ClassVar[str] = "Deep isolation forest"
    summary: ClassVar[str] = "Measures how easily random splits isolate the encoder's features of a tile from normal ones."
    uses_encoder: ClassVar[bool] = True
    Settings = DeepIsolationForestSettings
    settings: DeepIsolationForestSettings

    def __init__(self, settings: DeepIsolationForestSettings) -> None:
        super().__init__(settings)
        self.model = Forest(self.dimensions, settings.trees)


class Forest(FeatureModel):
    """An isolation forest whose scores equal scikit-learn's, 2^(−mean depth / expected depth), in (0, 1).

    Parameters
    ----------
    dimensions : int
        Number of features D.
    trees : int
        Number of trees T.

    Attributes
    ----------
    feature : (T, N) int64
        Feature that each of at most N nodes of a tree splits.
    threshold : (T, N) float32
        Features above it go right. Rounded down from scikit-learn's float64: the same float32 features are above it.
    branches : (T, N, 2) int64
        Nodes to the left and right; those of a leaf are the leaf itself.
    depth : (T, N) float32
        Path length that ends in a leaf.
    expected : (1,) float32
        Expected path length.
    """

    feature: Tensor
    threshold: Tensor
    branches: Tensor
    depth: Tensor
    expected: Tensor

    def __init__(self, dimensions: int, trees: int) -> None:
        super().__init__()
        self._dimensions, self._trees = dimensions, trees
        self.hold("feature", torch.zeros(trees, 1, dtype=torch.int64), free=(1,))
        self.hold("threshold", torch.zeros(trees, 1), free=(1,))
        self.hold("branches", torch.zeros(trees, 1, 2, dtype=torch.int64), free=(1,))
        self.hold("depth", torch.ones(trees, 1), free=(1,))
        self.hold("expected", torch.ones(1))

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> None:
        """Fit to features (N, D) of normal tiles; ``robust`` fits again to the nine tenths that are hardest to isolate."""
        forest = IsolationForest(n_estimators=self._trees, random_state=0).fit(features)
        if robust:
            score = forest.score_samples(features)
            features = features[score >= np.quantile(score, 1 - _ROBUST_KEPT)]
            forest = IsolationForest(n_estimators=self._trees, random_state=0).fit(features)
        size = max(estimator.tree_.node_count for estimator in forest.estimators_)
        themselves = np.broadcast_to(np.arange(size)[None, :, None], (self._trees, size, 2))  # where leaves lead to
        arrays = {
            "feature": np.zeros((self._trees, size), np.int64),
            "threshold": np.zeros((self._trees, size)),
            "branches": themselves.copy(),
            "depth": np.zeros((self._trees, size), np.float32),
        }
        for k, estimator in enumerate(forest.estimators_):
            tree, n = estimator.tree_, estimator.tree_.node_count
            leaf = tree.children_left < 0
            own = np.arange(n)
            arrays["feature"][k, :n] = np.where(leaf, 0, tree.feature)
            arrays["threshold"][k, :n] = tree.threshold
            arrays["branches"][k, :n] = np.stack([np.where(leaf, own, c) for c in (tree.children_left, tree.children_right)], 1)
            steps = np.zeros(n)
            for node in np.flatnonzero(~leaf):  # parents come before their children
                steps[[tree.children_left[node], tree.children_right[node]]] = steps[node] + 1
            arrays["depth"][k, :n] = steps + _expected_depth(tree.n_node_samples)
        nodes = {name: torch.from_numpy(value) for name, value in arrays.items()}
        nodes["threshold"] = _rounded_down(nodes["threshold"])
        self.keep(**nodes, expected=torch.from_numpy(_expected_depth(np.array([forest.max_samples_]))))

    def distance(self, features: Tensor) -> Tensor:
        """Return the scores (B,) of features (B, D); 0.5 and more is anomalous according to Liu et al."""
        trees, size = self.feature.shape
        feature, threshold, branches = self.feature.flatten(), self.threshold.flatten(), self.branches.flatten()
        values, tile = features.float().flatten(), torch.arange(len(features), device=features.device)
        first = (tile * features.shape[1]).repeat_interleave(trees)
        root = (torch.arange(trees, device=features.device) * size).repeat(len(features))
        at = root
        while True:  # for all tiles and trees at once, until all are at leaves
            right = values.index_select(0, feature.index_select(0, at) + first) > threshold.index_select(0, at)
            below = branches.index_select(0, (2 * at).add_(right)).add_(root)
            if torch.equal(below, at):
                break
            at = below
        mean = self.depth.flatten().index_select(0, at).reshape(len(features), -1).mean(1)
        return torch.exp2(-mean / self.expected)

    def check_fit(self) -> None:
        size = self.feature.shape[1]
        shapes = {tuple(part.shape[:2]) for part in (self.feature, self.threshold, self.branches, self.depth)}
        after = torch.arange(size)[:, None] <= self.branches.cpu()  # or following them might never end
        if shapes != {(self._trees, size)} or not bool(after.all()) or int(self.branches.max()) >= size:
            raise ValueError("its trees are damaged")
        if not 0 <= int(self.feature.min()) <= int(self.feature.max()) < self._dimensions:
            raise ValueError("its trees split features that do not exist")

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        if f"{prefix}children" in state_dict:  # a file of an earlier version, whose thresholds are float64
            state_dict[f"{prefix}branches"] = state_dict.pop(f"{prefix}children")
            state_dict[f"{prefix}threshold"] = _rounded_down(state_dict[f"{prefix}threshold"])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _rounded_down(exact: Tensor) -> Tensor:
    """Return the largest float32 values that are not above the exact ones."""
    rounded = exact.float()
    return torch.where(rounded > exact, torch.nextafter(rounded, torch.tensor(-torch.inf)), rounded)


def _expected_depth(samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean depth of an unsuccessful search in a tree of ``samples`` samples (Liu et al. 2008, eq. 1)."""
    n = np.maximum(samples, 2).astype(np.float64)
    depth = 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
    return np.where(samples > 2, depth, np.where(samples == 2, 1.0, 0.0))
