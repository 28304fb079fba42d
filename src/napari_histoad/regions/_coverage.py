"""The fraction of each tile that regions cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.regions._region import Region


def coverage(boxes: NDArray[np.float64], regions: Sequence[Region]) -> NDArray[np.float64]:
    """Return the fraction of each box that the union of the regions covers, exactly.

    Parameters
    ----------
    boxes : (N, 4) float64
        (y0, x0, y1, x1) in level-0 pixels.
    regions : sequence of Region

    Returns
    -------
    (N,) float64 in [0, 1]
    """
    out = np.zeros(len(boxes))
    if not len(boxes) or not regions:
        return out
    union = shapely.union_all([region.geometry for region in regions])
    parts = shapely.get_parts(union)
    rectangles = shapely.box(boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3])
    tree = shapely.STRtree(rectangles)
    # Only boxes that cross an outline need an intersection; those inside are covered completely.
    inside = np.unique(tree.query(parts, predicate="contains")[1])
    out[inside] = 1.0
    which, index = tree.query(parts, predicate="intersects")
    edge = ~np.isin(index, inside)
    which, index = which[edge], index[edge]
    area = shapely.area(shapely.intersection(parts[which], rectangles[index]))
    np.add.at(out, index, area / shapely.area(rectangles[index]))
    return np.clip(out, 0, 1)
