"""Converting between regions and the data of napari Shapes layers, without importing napari.

napari puts the centre of pixel 0 at coordinate 0; a `Region` has pixel i cover [i, i + 1). Hence the half pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely.geometry import Polygon

from napari_histoad.errors import RegionError
from napari_histoad.regions._region import Region, as_area

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_ELLIPSE_VERTICES = 64


def regions_from_shapes(
    data: Sequence[NDArray[np.floating]], shape_types: Sequence[str], names: Sequence[str] | str = "Normal"
) -> list[Region]:
    """Return the regions drawn in a napari Shapes layer.

    Parameters
    ----------
    data : sequence of (V, 2) float
        Vertices (y, x) in level-0 pixels, napari's convention.
    shape_types : sequence of str
        ``polygon``, ``rectangle`` and ``ellipse`` become regions; ``line`` and ``path`` are ignored.
    names : sequence of str or str
        The class of each shape, or one class for all.

    Raises
    ------
    RegionError
        If a shape encloses no area.
    """
    labels = [names] * len(data) if isinstance(names, str) else list(names)
    regions = []
    for number, (vertices, kind, name) in enumerate(zip(data, shape_types, labels, strict=True), start=1):
        if kind not in ("polygon", "rectangle", "ellipse"):
            continue
        outline = np.asarray(vertices, float)[:, -2:] + 0.5
        if kind == "ellipse":
            # Four corners of the (possibly turned) bounding box.
            centre = outline.mean(axis=0)
            a, b = (outline[1] - outline[0]) / 2, (outline[3] - outline[0]) / 2
            turn = np.linspace(0, 2 * np.pi, _ELLIPSE_VERTICES, endpoint=False)[:, None]
            outline = centre + np.cos(turn) * a + np.sin(turn) * b
        if len(outline) < 3:
            raise RegionError(f"shape {number} has fewer than three corners", "draw it again")
        regions.append(Region(as_area(Polygon(outline), f"shape {number}"), name))
    return regions


def shapes_from_regions(regions: Sequence[Region]) -> tuple[list[NDArray[np.float64]], list[str]]:
    """Return the polygons for ``layer.data``, and the class of each.

    Shapes have no holes; a region with a hole becomes one outline that is cut open towards the hole.
    """
    data, names = [], []
    for region in regions:
        for part in shapely.get_parts(region.geometry):
            outline = np.asarray(part.exterior.coords)[:-1]
            for hole in part.interiors:
                ring = np.asarray(hole.coords)
                gap = ((outline[:, None] - ring[None]) ** 2).sum(-1)
                i, j = np.unravel_index(gap.argmin(), gap.shape)
                loop = np.concatenate([ring[j:], ring[1 : j + 1]])
                outline = np.concatenate([outline[: i + 1], loop, outline[i:]])
            data.append(outline - 0.5)
            names.append(region.name)
    return data, names
