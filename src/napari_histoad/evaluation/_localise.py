"""How well a map shows where anomalies are: by cell of the map, by outlined anomaly, and per mm² of normal tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from napari_histoad.evaluation._metrics import Interval, group_draws

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region

__all__ = ["CellScores", "Detections", "binned_auroc", "binned_average_precision", "binned_interval", "cell_scores", "detect"]

FROC_COUNTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per slide at which the Camelyon16 challenge measures the sensitivity (Bejnordi et al. 2017)."""
FALSE_PER_MM2 = (0.1, 1.0, 10.0)
_BLOCK_TILES = 8
_MOST_PEAKS = 2000
_BINS = 4096


@dataclass(frozen=True)
class CellScores:
    """The anomaly map cell by cell.

    Attributes
    ----------
    anomalous : (n,) bool
        Whether the centre of a cell lies in an outlined anomaly, or the cell contains the middle of one.
    scores : (n,) float32
    blocks : (n,) int64
        Spatial block of each cell, 8 tiles wide.
    normal_mm2 : float
        Area of the cells that are not anomalous.
    """

    anomalous: NDArray[np.bool_]
    scores: NDArray[np.float32]
    blocks: NDArray[np.int64]
    normal_mm2: float


def cell_scores(result: AnomalyMap, lesions: Sequence[Region], left_out: Sequence[Region] = ()) -> CellScores:
    """Return the scored cells of a map outside the outlines that are left out, and which are anomalous."""
    field = result.score_field()
    use = ~np.isnan(field) & ~_inside(result, left_out)
    anomalous = _inside(result, lesions)
    use |= anomalous & ~np.isnan(field)
    rows, columns = np.nonzero(use)
    side = max(_BLOCK_TILES * result.geometry.cells_per_tile, 1)
    blocks = rows // side * 65536 + columns // side
    labels = anomalous[rows, columns]
    area = (result.geometry.cell_l0 * result.info.slide_mpp) ** 2 / 1e6
    return CellScores(labels, field[rows, columns], blocks.astype(np.int64), float((~labels).sum() * area))


def _inside(result: AnomalyMap, regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Return which cells of a map have their centre in a region, or contain its middle, (H, W) bool."""
    cell = result.geometry.cell_l0
    inside = np.zeros(result.geometry.shape, bool)
    for region in regions:
        low_y, low_x, high_y, high_x = np.array(region.geometry.bounds) / cell
        first = np.clip([int(low_y), int(low_x)], 0, inside.shape)
        stop = np.clip([int(high_y) + 1, int(high_x) + 1], 0, inside.shape)
        y, x = ((np.arange(a, b) + 0.5) * cell for a, b in zip(first, stop, strict=True))
        shapely.prepare(region.geometry)
        within = shapely.contains_xy(region.geometry, *np.meshgrid(y, x, indexing="ij"))
        inside[first[0] : stop[0], first[1] : stop[1]] |= within
        middle = region.geometry.representative_point()
        row, column = int(middle.x // cell), int(middle.y // cell)  # shapely's x is our y
        if 0 <= row < inside.shape[0] and 0 <= column < inside.shape[1]:
            inside[row, column] = True  # of a region so small that it contains no centre
    return inside


def binned_interval(
    metric: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    labels: NDArray[np.bool_],
    scores: NDArray[np.floating],
    groups: NDArray[np.int64],
    *,
    draws: int = 300,
) -> Interval | None:
    """Return a metric of very many scores with its 95% bootstrap interval over groups; None if all labels are the same.

    Scores are counted in 4,096 bins of about equal size, which changes the metrics below by less than 0.001.

    Parameters
    ----------
    metric : callable
        `binned_auroc` or `binned_average_precision`.
    labels : (N,) bool
    scores : (N,) float
    groups : (N,) int64
    draws : int
        Number of bootstrap samples.
    """
    if not 0 < labels.sum() < len(labels):
        return None
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, scores, side="right")
    ids, of_group = np.unique(groups, return_inverse=True)
    counts = np.zeros((2, len(ids), len(edges) + 1))
    np.add.at(counts, (labels.astype(np.int64), of_group, bins), 1)
    kind, group = np.nonzero(counts.sum(2))
    times = [np.ones(len(group)), *group_draws(kind > 0, group.astype(np.int64), draws=draws)]
    weights = np.array(times, np.float64)
    normal, anomalous = (weights[:, kind == k] @ counts[k, group[kind == k]] for k in (0, 1))
    values = metric(normal, anomalous)
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return Interval(float(values[0]), float(low), float(high))


def binned_auroc(normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the AUROC (draws,) from counts of normal and anomalous scores by ascending bin, both (draws, bins)."""
    below = normal.cumsum(1) - normal / 2
    found: NDArray[np.float64] = (anomalous * below).sum(1) / (anomalous.sum(1) * normal.sum(1))
    return found


def binned_average_precision(normal: NDArray[np.float64], anomalous: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the average precision (draws,) from counts of normal and anomalous scores by ascending bin, both (draws, bins)."""
    hits = anomalous[:, ::-1].cumsum(1)
    flagged = hits + normal[:, ::-1].cumsum(1)
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    found: NDArray[np.float64] = (precision * anomalous[:, ::-1]).sum(1) / anomalous.sum(1)
    return found


@dataclass(frozen=True)
class Detections:
    """The highest places of a map in falling order, and which outlined anomalies they hit.

    Attributes
    ----------
    false : (n,) int64
        Number of places so far that hit none.
    found : (n,) float64
        Share of the anomalies hit so far.
    """

    false: NDArray[np.int64]
    found: NDArray[np.float64]

    def sensitivity(self, false: float) -> float:
        """Return the share of anomalies found with at most this number of false positives."""
        within = self.false <= false
        return float(self.found[within].max(initial=0.0))

    @property
    def froc(self) -> float:
        """Mean sensitivity at ¼, ½, 1, 2, 4 and 8 false positives."""
        return float(np.mean([self.sensitivity(count) for count in FROC_COUNTS]))

    def per_mm2(self, normal_mm2: float) -> dict[float, float]:
        """Return the sensitivity by number of false positives per mm² of normal tissue."""
        return {rate: self.sensitivity(rate * normal_mm2) for rate in FALSE_PER_MM2}


def detect(result: AnomalyMap, lesions: Sequence[Region], counted: NDArray[np.bool_]) -> Detections:
    """Return the local maxima of the tile scores, at least a tile apart and 2,000 at most, and what they hit.

    Parameters
    ----------
    result : AnomalyMap
    lesions : sequence of Region
        A place hits an anomaly that is at most half a tile from its centre.
    counted : (N,) bool
        Tiles that are neither left out nor undecided.
    """
    scores, side = result.scores, result.info.tile_l0
    centres = result.origins + side / 2
    order = [i for i in np.argsort(-scores, kind="stable").tolist() if counted[i] and not np.isnan(scores[i])]
    free = np.ones(len(scores), bool)
    peaks = []
    for i in order:
        if free[i]:
            peaks.append(i)
            free &= (np.abs(centres - centres[i]) > side).any(axis=1)
        if len(peaks) == _MOST_PEAKS:
            break
    points = shapely.points(centres[peaks])
    hits = [{k for k, lesion in enumerate(lesions) if lesion.geometry.distance(p) <= side / 2} for p in points]
    found: set[int] = set()
    shares = []
    for hit in hits:
        found |= hit
        shares.append(len(found) / len(lesions))
    return Detections(np.cumsum([not hit for hit in hits], dtype=np.int64), np.array(shares, np.float64))
