"""Reading annotation files (QuPath's GeoJSON, Camelyon JSON) and writing GeoJSON for QuPath."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import shapely
from shapely.geometry import mapping

from napari_histoad.errors import RegionError, SettingsError, writing
from napari_histoad.regions._geojson import annotations_of
from napari_histoad.regions._json_document import read_document
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike
    from typing import Any

    from shapely.geometry.base import BaseGeometry

    from napari_histoad.regions._annotations import Annotations
    from napari_histoad.regions._region import Region

_COLOURS = {True: [0, 158, 115], False: [213, 94, 0]}


def read_annotations(path: str | PathLike[str], downsample: float = 1.0, *, with_areas: bool = False) -> Annotations:
    """Read the outlines of an annotation file, with notes on what was left out.

    Parameters
    ----------
    path : path-like
        GeoJSON (QuPath and others), plain, gzipped or zipped, or Camelyon JSON (``{"positive": […], "negative": […]}``).
    downsample : float
        Divisor of the file's coordinates: 32 for annotations of level 0 if the slide is a copy of level 5.
    with_areas : bool
        Whether areas of QuPath's class ``Region*`` (areas to analyse) are used beside outlines of other classes. If a file has
        no other outlines, they are used in any case.

    Returns
    -------
    Annotations
        Regions in level-0 pixels, (y, x), and notes on what was left out: cells, TMA cores, points, lines, classes that end in
        ``*``, and invalid outlines.

    Raises
    ------
    RegionError
        If the file cannot be read, or has no valid outline.
    SettingsError
        If ``downsample`` is not a positive number.
    """
    if not (math.isfinite(downsample) and downsample > 0):
        msg = f"the downsample of annotations cannot be {downsample:g}"
        raise SettingsError(msg, "give a number above 0; 1 if they are in level-0 pixels")
    file = Path(path)
    document, notes = read_document(file)
    try:
        found = annotations_of(document, file.name, with_areas=with_areas)
    except RecursionError as err:
        msg = f"{file.name} is nested too deeply to be an annotation file"
        raise RegionError(msg, "export the annotations as GeoJSON") from err
    found = replace(found, notes=(*notes, *found.notes))
    if downsample == 1.0:
        return found
    return replace(
        found,
        regions=[_scaled(region, 1 / downsample) for region in found.regions],
        ignored=tuple(_scaled(region, 1 / downsample) for region in found.ignored),
    )


def read_regions(path: str | PathLike[str], downsample: float = 1.0) -> list[Region]:
    """Return the outlined regions of an annotation file; see `read_annotations`."""
    return read_annotations(path, downsample).regions


def write_geojson(regions: Iterable[Region], path: str | PathLike[str], about: dict[str, Any] | None = None) -> None:
    """Write regions as a GeoJSON feature collection that QuPath imports as annotations.

    Parameters
    ----------
    regions : iterable of Region
    path : path-like
    about : dict, optional
        Written as the member ``napari_histoad`` of the collection, which other programs ignore.

    Raises
    ------
    OutputError
        If the file cannot be written; an existing one is not changed then.
    """
    features = [{"type": "Feature", "geometry": mapping(_flipped(r.geometry)), "properties": _properties(r)} for r in regions]
    document = json.dumps({"type": "FeatureCollection", **({"napari_histoad": about} if about else {}), "features": features})
    file = Path(path)
    with writing(file):
        file.parent.stat()  # an error if the folder is misspelt, instead of making it
    with atomic_path(file) as partial:
        partial.write_text(document, encoding="utf-8")


def _properties(region: Region) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if region.name:
        properties["classification"] = {"name": region.name, "color": _COLOURS[region.is_normal]}
    properties["measurements"] = {name: value for name, value in region.measurements.items() if math.isfinite(value)}
    return properties


def _flipped(geometry: BaseGeometry) -> BaseGeometry:
    """Exchange x and y: files have (x, y), this package has (y, x)."""
    return shapely.transform(geometry, lambda points: points[:, ::-1])


def _scaled(region: Region, factor: float) -> Region:
    return replace(region, geometry=shapely.transform(region.geometry, lambda points: points * factor))
