"""Annotation files: GeoJSON as QuPath writes and reads it, and Camelyon JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry import Polygon, mapping, shape

from napari_histoad.errors import RegionError, writing
from napari_histoad.regions._region import Region, as_area

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from shapely.geometry.base import BaseGeometry

__all__ = ["read_regions", "write_geojson"]

_COLOURS = {True: [0, 158, 115], False: [213, 94, 0]}


def read_regions(path: str | PathLike[str], downsample: float = 1.0) -> list[Region]:
    """Read outlined regions.

    Parameters
    ----------
    path : path-like
        GeoJSON (QuPath and others) or Camelyon JSON (``{"positive": […], "negative": […]}``).
    downsample : float
        Divides the file's coordinates: 32 for annotations of level 0 when the slide is a copy of level 5.

    Returns
    -------
    list of Region
        Level-0 pixels, (y, x).

    Raises
    ------
    RegionError
        If the file cannot be read or holds no areas.
    """
    file = Path(path)
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as err:
        raise RegionError(f"there is no annotation file {file}", "check the path") from err
    except OSError as err:
        raise RegionError(f"{file} cannot be read: {err.strerror or err}", "check its permissions") from err
    except ValueError as err:
        raise RegionError(f"{file.name} is not JSON ({err})", "export the annotations as GeoJSON") from err
    if isinstance(document, dict) and ("positive" in document or "negative" in document):
        regions = _camelyon(document, file.name)
    else:
        regions = _geojson(document, file.name)
    if not regions:
        raise RegionError(f"{file.name} holds no areas", "outline regions with polygons and export them again")
    if downsample == 1.0:
        return regions
    return [Region(_scaled(r.geometry, 1 / downsample), r.name, r.measurements) for r in regions]


def write_geojson(regions: Iterable[Region], path: str | PathLike[str]) -> None:
    """Write regions as a GeoJSON feature collection that QuPath imports as annotations.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    features = [
        {
            "type": "Feature",
            "geometry": mapping(_flipped(region.geometry)),
            "properties": {
                "objectType": "annotation",
                "classification": {"name": region.name or "Region", "color": _COLOURS[region.is_normal]},
                "measurements": region.measurements,
            },
        }
        for region in regions
    ]
    document = json.dumps({"type": "FeatureCollection", "features": features})
    with writing(path):
        Path(path).write_text(document, encoding="utf-8")


def _flipped(geometry: BaseGeometry) -> BaseGeometry:
    """Exchange x and y; files are (x, y), everything inside is (y, x)."""
    return shapely.transform(geometry, lambda points: points[:, ::-1])


def _scaled(geometry: Any, factor: float) -> Any:
    return shapely.transform(geometry, lambda points: points * factor)


def _geojson(document: Any, where: str) -> list[Region]:
    if isinstance(document, list):
        features = document
    elif isinstance(document, dict) and document.get("type") == "FeatureCollection":
        features = document.get("features", [])
    elif isinstance(document, dict) and "type" in document:
        features = [document if document["type"] == "Feature" else {"geometry": document}]
    else:
        raise RegionError(f"{where} is JSON but not GeoJSON", "export the annotations as GeoJSON")
    regions = []
    for number, feature in enumerate(features, start=1):
        place = f"feature {number} of {where}"
        if not isinstance(feature, dict) or not isinstance(feature.get("geometry"), dict):
            raise RegionError(f"{place} has no geometry", "export the annotations again")
        if feature["geometry"].get("type") not in ("Polygon", "MultiPolygon"):
            continue  # points and lines enclose nothing
        try:
            geometry = shapely.force_2d(shape(feature["geometry"]))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, shapely.errors.ShapelyError) as err:
            raise RegionError(f"{place} is not a valid polygon ({err})", "export the annotations again") from err
        properties = feature.get("properties") or {}
        classification = properties.get("classification") or {}
        name = classification.get("name", "") if isinstance(classification, dict) else str(classification)
        measured = properties.get("measurements")
        numbers = measured.items() if isinstance(measured, dict) else ()
        measurements = {str(k): float(v) for k, v in numbers if isinstance(v, int | float)}
        regions.append(Region(as_area(_flipped(geometry), place), name or properties.get("name", ""), measurements))
    return regions


def _camelyon(document: dict[str, Any], where: str) -> list[Region]:
    regions = []
    for name in ("positive", "negative"):
        for number, item in enumerate(document.get(name) or [], start=1):
            place = f"{name} polygon {number} of {where}"
            try:
                polygon = Polygon([(float(y), float(x)) for x, y in item["vertices"]])
            except (KeyError, TypeError, ValueError, shapely.errors.ShapelyError) as err:
                raise RegionError(f"{place} is not valid ({err})", "check the file") from err
            regions.append(Region(as_area(polygon, place), name))
    return regions
