"""Outlines and measurements of the flagged regions of a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from shapely.affinity import affine_transform
from shapely.geometry import Polygon
from skimage.measure import find_contours

from napari_histoad.regions import Region, as_area

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.maps import AnomalyMap


def measure_regions(
    source: AnomalyMap,
    rate: float | None = None,
    min_area_um2: float | None = None,
    *,
    labels: NDArray[np.uint32] | None = None,
) -> list[Region]:
    """Return the flagged regions of a map with their outlines and measurements.

    Parameters
    ----------
    source : AnomalyMap
    rate, min_area_um2 : float, optional
        False-positive rate of the threshold and smallest area in µm², see `AnomalyMap.flag`.
    labels : (H, W) uint32, optional
        Result of `AnomalyMap.flag`, if it is already known.

    Returns
    -------
    list of Region
        Highest mean score first. Outlines are in level-0 pixels; ``measurements`` holds ``"Area mm²"``, ``"Mean score"``,
        ``"Max score"``, ``"Min p-value"`` and ``"Tiles"``.

    Notes
    -----
    The tiles of a region are those whose centres lie inside it. A narrow region may contain no centre; then the
    highest-scoring tile that overlaps it is measured.

    Examples
    --------
    >>> for region in measure_regions(AnomalyMap.open("maps/case.ome.zarr"), rate=0.01):  # doctest: +SKIP
    ...     print(region.measurements["Area mm²"])
    """
    if labels is None:
        labels = source.flag(rate, min_area_um2)
    geometry, info = source.geometry, source.info
    centres = (source.origins + info.tile_l0 / 2) / geometry.cell_l0
    inside = labels[
        np.clip(centres[:, 0].astype(int), 0, labels.shape[0] - 1),
        np.clip(centres[:, 1].astype(int), 0, labels.shape[1] - 1),
    ]
    scores, p_values = source.scores, source.p_values
    regions = []
    for number, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None:
            continue
        mask = labels[box] == number
        outline = _outline(mask, box[0].start, box[1].start, geometry.cell_l0)
        mine = (inside == number) & ~np.isnan(scores)
        if not mine.any():
            reaches = np.abs(centres - [(side.start + side.stop) / 2 for side in box]) < [
                (side.stop - side.start + geometry.cells_per_tile) / 2 for side in box
            ]
            over = reaches.all(axis=1) & ~np.isnan(scores)
            mine = over & (scores == scores[over].max(initial=-np.inf))
        measurements = {"Area mm²": float(mask.sum()) * (geometry.cell_l0 * info.slide_mpp) ** 2 / 1e6}
        if mine.any():
            measurements["Mean score"] = float(scores[mine].mean())
            measurements["Max score"] = float(scores[mine].max())
            measurements["Min p-value"] = float(p_values[mine].min())
            measurements["Tiles"] = float(mine.sum())
        regions.append(Region(outline, "Anomalous", measurements))
    return sorted(regions, key=lambda r: -r.measurements.get("Mean score", 0.0))


def _outline(mask: NDArray[np.bool_], y0: int, x0: int, cell_l0: float) -> Polygon:
    rings = [Polygon(c) for c in find_contours(np.pad(mask, 1).astype(np.float32), 0.5) if len(c) >= 4]
    area = Polygon()
    for ring in sorted(rings, key=lambda r: -r.area):
        area = area.symmetric_difference(ring.buffer(0))  # a ring inside a ring is a hole, a ring inside a hole an island
    # Index i of the padded mask is cell i − 1, whose centre lies at (i − 1 + ½) cells.
    placed = affine_transform(area.simplify(0.5), [cell_l0, 0, 0, cell_l0, (y0 - 0.5) * cell_l0, (x0 - 0.5) * cell_l0])
    return as_area(placed, "a flagged region")
