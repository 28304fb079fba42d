"""Polygons: drawn or computed regions, in and out of files and napari Shapes, and rasterised to tiles."""

from napari_histoad.regions._coverage import coverage
from napari_histoad.regions._files import read_regions, write_geojson
from napari_histoad.regions._region import NORMAL_NAMES, Region
from napari_histoad.regions._shapes import regions_from_shapes, shapes_from_regions

__all__ = [
    "NORMAL_NAMES",
    "Region",
    "coverage",
    "read_regions",
    "regions_from_shapes",
    "shapes_from_regions",
    "write_geojson",
]
