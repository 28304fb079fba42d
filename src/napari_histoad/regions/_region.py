"""`Region`, an outlined area of a slide with a class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import shapely
from shapely.geometry import MultiPolygon, Polygon

from napari_histoad.errors import RegionError
from napari_histoad.regions._classes import class_meaning

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from napari_histoad.regions._classes import Meaning


@dataclass(frozen=True)
class Region:
    """A polygon with a class.

    Attributes
    ----------
    geometry : Polygon or MultiPolygon
        Vertices are (y, x) in level-0 pixels; pixel i covers [i, i + 1). May have holes.
    name : str
        The class, such as ``"Normal"`` or ``"Tumor: Necrosis"``; empty if unknown.
    measurements : dict[str, float]
        Numbers by name, exported with the region.
    """

    geometry: Polygon | MultiPolygon
    name: str = ""
    measurements: dict[str, float] = field(default_factory=dict)

    @property
    def meaning(self) -> Meaning:
        """The meaning of the class, see `class_meaning`."""
        return class_meaning(self.name)

    @property
    def is_normal(self) -> bool:
        """Whether the class means normal tissue."""
        return self.meaning == "normal"


def as_area(geometry: BaseGeometry, where: str) -> Polygon | MultiPolygon:
    """Return the polygons of a geometry, repaired where they cross themselves.

    Raises
    ------
    RegionError
        If the geometry encloses no area.
    """
    valid = geometry if geometry.is_valid else shapely.make_valid(geometry)
    parts = [
        polygon
        for part in getattr(valid, "geoms", [valid])
        for polygon in (part.geoms if isinstance(part, MultiPolygon) else [part])
        if isinstance(polygon, Polygon) and polygon.area > 0
    ]
    if not parts:
        raise RegionError(f"{where} encloses no area", "draw polygons, rectangles or ellipses")
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)
