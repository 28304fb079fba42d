"""Scores of tiles on their way from a batch to the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoredTiles:
    """Scores of B tiles; all values of a tile that could not be read are NaN.

    Attributes
    ----------
    index : (B,) int64
        Row of each tile in the tile table of the map, or in the images that were scored.
    scores : (B,) float32
        Higher is more anomalous.
    error_cells : (B, c, c) float32 or None
        Error maps pooled to the cells of the map; None without error maps.
    probabilities : (B, K) float32 or None
        Class probabilities; None without a classifier.
    failed : (B,) bool
        Tiles that could not be read.
    """

    index: NDArray[np.int64]
    scores: NDArray[np.float32]
    error_cells: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None
    failed: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.failed.any():
            for name in ("scores", "error_cells", "probabilities"):
                values = getattr(self, name)
                if values is not None:
                    values = values.copy()
                    values[self.failed] = np.nan
                    object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.index)

    @staticmethod
    def join(parts: Sequence[ScoredTiles]) -> ScoredTiles:
        """Return several batches as one."""
        cells = [part.error_cells for part in parts if part.error_cells is not None]
        classes = [part.probabilities for part in parts if part.probabilities is not None]
        return ScoredTiles(
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate(cells) if cells else None,
            np.concatenate(classes) if classes else None,
            np.concatenate([part.failed for part in parts]),
        )
