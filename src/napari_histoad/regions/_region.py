"""One outlined piece of a slide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import shapely
from shapely.geometry import MultiPolygon, Polygon

from napari_histoad.errors import RegionError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

__all__ = ["NORMAL_NAMES", "Region"]

NORMAL_NAMES = frozenset({"normal", "negative", "benign", "healthy"})
"""Class names, in lower case, that mean normal tissue."""


@dataclass(frozen=True)
class Region:
    """A polygon with a class.

    Attributes
    ----------
    geometry : Polygon or MultiPolygon
        Vertices are (y, x) in level-0 pixels; pixel i covers [i, i + 1). Holes are honoured.
    name : str
        The class, such as ``"Normal"`` or ``"Tumor"``; empty if unknown.
    measurements : dict[str, float]
        Named numbers, exported with the region.
    """

    geometry: Polygon | MultiPolygon
    name: str = ""
    measurements: dict[str, float] = field(default_factory=dict)

    @property
    def is_normal(self) -> bool:
        """Whether the class name says that this is normal tissue."""
        return self.name.strip().lower() in NORMAL_NAMES


def as_area(geometry: BaseGeometry, where: str) -> Polygon | MultiPolygon:
    """Return the areal part of a geometry, mended where it crosses itself.

    Raises
    ------
    RegionError
        If no area is left.
    """
    mended = geometry if geometry.is_valid else shapely.make_valid(geometry)
    if isinstance(mended, Polygon | MultiPolygon) and not mended.is_empty:
        return mended
    parts = [
        polygon
        for part in getattr(mended, "geoms", [])
        for polygon in (part.geoms if isinstance(part, MultiPolygon) else [part])
        if isinstance(polygon, Polygon) and polygon.area > 0
    ]
    if not parts:
        raise RegionError(f"{where} encloses no area", "draw polygons, rectangles or ellipses")
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)
