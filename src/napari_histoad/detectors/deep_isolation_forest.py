"""Isolation forest on the pooled features of an encoder.

Liu et al. 2008 (doi:10.1109/ICDM.2008.17); fitted by scikit-learn, kept as plain tensors and scored on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from sklearn.ensemble import IsolationForest

from napari_histoad.detectors.embedding import EncoderDetector, EncoderSettings
from napari_histoad.networks.constants import on_device

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
    """How few random cuts set a tile's features apart from those of normals."""

    name: ClassVar[str] = "deep_isolation_forest"
    title: ClassVar[str] = "Deep isolation forest"
    summary: ClassVar[str] = "Measures how easily random splits isolate the encoder's features of a tile from normal ones."
    uses_encoder: ClassVar[bool] = True
    Settings = DeepIsolationForestSettings
    settings: DeepIsolationForestSettings

    def __init__(self, settings: DeepIsolationForestSettings) -> None:
        super().__init__(settings)
        self.model = Forest(self.dimensions, settings.trees)


class Forest:
    """An isolation forest whose scores equal scikit-learn's, 2^(−mean depth / expected depth), in (0, 1).

    Parameters
    ----------
    dimensions, trees : int
    """

    def __init__(self, dimensions: int, trees: int) -> None:
        self._dimensions, self._trees = dimensions, trees
        self._adopt(
            {
                "feature": torch.zeros(trees, 1, dtype=torch.int64),
                "threshold": torch.zeros(trees, 1, dtype=torch.float64),
                "children": torch.zeros(trees, 1, 2, dtype=torch.int64),
                "depth": torch.ones(trees, 1),
                "expected": torch.ones(1),
            }
        )

    def fit(self, features: NDArray[np.float32], *, robust: bool = False) -> None:
        """Fit to features (N, D) of normals; robust, a second time to the nine tenths that are hardest to set apart."""
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
            "children": themselves.copy(),
            "depth": np.zeros((self._trees, size), np.float32),
        }
        for k, estimator in enumerate(forest.estimators_):
            tree, n = estimator.tree_, estimator.tree_.node_count
            leaf = tree.children_left < 0
            own = np.arange(n)
            arrays["feature"][k, :n] = np.where(leaf, 0, tree.feature)
            arrays["threshold"][k, :n] = tree.threshold
            arrays["children"][k, :n] = np.stack([np.where(leaf, own, c) for c in (tree.children_left, tree.children_right)], 1)
            steps = np.zeros(n)
            for node in np.flatnonzero(~leaf):  # parents come before their children
                steps[[tree.children_left[node], tree.children_right[node]]] = steps[node] + 1
            arrays["depth"][k, :n] = steps + _expected_depth(tree.n_node_samples)
        nodes = {name: torch.from_numpy(value) for name, value in arrays.items()}
        nodes["expected"] = torch.from_numpy(_expected_depth(np.array([forest.max_samples_]))).float()
        self._adopt(nodes)

    def distance(self, features: Tensor) -> Tensor:
        """Return the scores (B,) of features (B, D); 0.5 and more is anomalous in Liu's sense."""
        feature, threshold, children, depth, roots = (on_device(part, features.device) for part in self._flat)
        values, tile = features.float().flatten(), torch.arange(len(features), device=features.device)
        first = (tile * features.shape[1]).repeat_interleave(len(roots))
        at = roots.repeat(len(features))
        while True:  # of all tiles and trees at once, until all are at leaves, which lead to themselves
            right = values.index_select(0, feature.index_select(0, at) + first) > threshold.index_select(0, at)
            below = children.index_select(0, 2 * at + right)
            if torch.equal(below, at):
                break
            at = below
        mean = depth.index_select(0, at).reshape(len(features), -1).mean(1)
        return torch.exp2(-mean / on_device(self._nodes["expected"], features.device))

    def _adopt(self, nodes: dict[str, Tensor]) -> None:
        """Take over the nodes, and lay those of all trees in one row to walk along."""
        trees, size = nodes["feature"].shape
        roots = torch.arange(trees) * size
        children = (nodes["children"] + roots[:, None, None]).flatten()  # two a node
        exact = nodes["threshold"].double()
        # Rounded down: x > t of scikit-learn's float64 is x > the largest float32 that is not above t.
        rounded = exact.float()
        rounded = torch.where(rounded > exact, torch.nextafter(rounded, torch.tensor(-torch.inf)), rounded)
        self._nodes = nodes
        self._flat = nodes["feature"].flatten(), rounded.flatten(), children, nodes["depth"].flatten(), roots

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Return the nodes of all trees under ``prefix``."""
        return {f"{prefix}.{name}": value for name, value in self._nodes.items()}

    def load_state(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take over what `state` returned."""
        nodes = {name: state[f"{prefix}.{name}"] for name in self._nodes}
        size = nodes["feature"].shape[-1]
        below = torch.arange(size)[:, None] <= nodes["children"]
        if nodes["feature"].shape[0] != self._trees or not bool(below.all()) or int(nodes["children"].max()) >= size:
            raise ValueError("its trees are damaged")
        if not 0 <= int(nodes["feature"].min()) <= int(nodes["feature"].max()) < self._dimensions:
            raise ValueError("its trees ask for features that there are not")
        self._adopt(nodes)


def _expected_depth(samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean depth of an unsuccessful search in a tree of so many samples (Liu et al. 2008, eq. 1)."""
    n = np.maximum(samples, 2).astype(np.float64)
    depth = 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
    return np.where(samples > 2, depth, np.where(samples == 2, 1.0, 0.0))
