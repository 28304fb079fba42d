"""Regions (polygons with a class): reading and writing annotation files and napari Shapes, and their coverage of tiles."""

from napari_histoad.regions._annotations import Annotations, count_classes, normal_regions, outside_note
from napari_histoad.regions._classes import NORMAL_NAMES, UNREADABLE, class_meaning
from napari_histoad.regions._coverage import coverage
from napari_histoad.regions._files import read_annotations, read_regions, write_geojson
from napari_histoad.regions._region import Region, as_area
from napari_histoad.regions._shapes import regions_from_shapes, shapes_from_regions

__all__ = [
    "NORMAL_NAMES",
    "UNREADABLE",
    "Annotations",
    "Region",
    "as_area",
    "class_meaning",
    "count_classes",
    "coverage",
    "normal_regions",
    "outside_note",
    "read_annotations",
    "read_regions",
    "regions_from_shapes",
    "shapes_from_regions",
    "write_geojson",
]
