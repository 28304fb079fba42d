"""How well scores separate each class of tiles from the tiles of the opposite label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score

from napari_histoad.evaluation._metrics import Interval, bootstrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ClassFigures", "figures_by_class"]


@dataclass(frozen=True)
class ClassFigures:
    """How well scores separate the tiles of one class from the tiles of the opposite label.

    Attributes
    ----------
    anomalous : bool
        Whether the tiles of the class are anomalous.
    auroc : Interval
        Of an anomalous class against all normal tiles; of a normal class, all anomalous tiles against it.
    flagged : float
        Share of the tiles at or above the threshold: the sensitivity for an anomalous class, the false-positive rate for a
        normal one.
    tiles, groups : int
    """

    anomalous: bool
    auroc: Interval
    flagged: float
    tiles: int
    groups: int

    def __str__(self) -> str:
        rate = "sensitivity" if self.anomalous else "false positives"
        return f"AUROC {self.auroc}, {rate} {self.flagged:.1%}; {self.tiles:,} tiles in {self.groups:,} groups"


def figures_by_class(
    labels: NDArray[np.bool_],
    scores: NDArray[np.float64],
    flagged: NDArray[np.bool_],
    groups: NDArray[np.int64],
    classes: Sequence[str],
) -> dict[str, ClassFigures]:
    """Return figures by class, normal classes first; empty if there are only one normal and one anomalous class.

    Parameters
    ----------
    labels, flagged : (N,) bool
        Whether a tile is anomalous, and whether it is flagged.
    scores : (N,) float64
    groups : (N,) int64
        Slide, patient or folder of each tile.
    classes : sequence of N str
        Class of each tile; tiles with an empty one are left out. Where tiles of one class have both labels, the normal and the
        anomalous ones count as two classes.
    """
    names = np.asarray(classes, dtype=object)
    kinds = sorted({(bool(label), name) for label, name in zip(labels, names, strict=True) if name})
    if len(kinds) <= 2 and len({label for label, _ in kinds}) == len(kinds):
        return {}
    both = {name for label, name in kinds if (not label, name) in kinds}
    found = {}
    for label, name in kinds:
        mine = (names == name) & (labels == label)
        rows = mine | (labels != label)
        shown = f"{name} ({'anomalous' if label else 'normal'})" if name in both else str(name)
        found[shown] = ClassFigures(
            label,
            bootstrap(lambda y, s: float(roc_auc_score(y, s)), labels[rows], scores[rows], groups[rows]),
            float(flagged[mine].mean()),
            int(mine.sum()),
            len(np.unique(groups[mine])),
        )
    return found
