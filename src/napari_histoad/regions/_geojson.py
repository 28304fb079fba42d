"""Converting GeoJSON and Camelyon JSON documents to regions; invalid parts are left out and named in notes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon

from napari_histoad.errors import RegionError
from napari_histoad.regions._annotations import Annotations
from napari_histoad.regions._classes import UNREADABLE, class_meaning, class_of, is_area_of_interest
from napari_histoad.regions._region import Region, as_area

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMED = 10
"""Coordinates nested more deeply are not read."""
_NOT_OUTLINES = {"cell": "cells", "detection": "detections", "tile": "tiles", "tmacore": "TMA cores", "root": "root objects"}
_AREAS, _NO_AREAS = ("Polygon", "MultiPolygon"), ("Point", "MultiPoint", "LineString", "MultiLineString", "LinearRing")
_OF_INTEREST = "of a class that marks areas to analyse and says nothing about the tissue"
_OF_FEATURE = ("type", "geometry", "properties", "id", "bbox", "nucleusGeometry", "coordinates", "geometries", "crs")


class _LeftOut:
    """Counts what is left out, by reason, and records whether any outline, used or left out, has a class."""

    def __init__(self) -> None:
        self.classed = False
        self._why: dict[str, list[str]] = {}

    def add(self, place: str, why: str) -> None:
        self._why.setdefault(why, []).append(place)

    def take_back(self, why: str) -> None:
        self._why.pop(why, None)

    def notes(self) -> tuple[str, ...]:
        lines = []
        for why, places in self._why.items():
            named = ", ".join(places[:_NAMED]) + (f" and {len(places) - _NAMED} more" if len(places) > _NAMED else "")
            lines.append(f"{len(places)} left out, {why}: {named}")
        return tuple(lines)


def annotations_of(document: Any, where: str, *, with_areas: bool = False) -> Annotations:
    """Return the outlines of a document, with notes on what was left out.

    It may be GeoJSON (a feature collection, a list of features, one feature or a geometry) or Camelyon's ``{"positive": […],
    "negative": […]}``, where negative is normal tissue. ``where`` names it in messages. Raises `RegionError` if it is neither, or
    has no valid outline.
    """
    left_out = _LeftOut()
    if isinstance(document, dict) and "type" not in document and ("positive" in document or "negative" in document):
        regions = list(_camelyon(document, left_out))
    else:
        regions = list(_geojson(_features(document, where), left_out))
    kept = [region for region in regions if region.meaning != "ignored"]
    if with_areas or not kept:
        left_out.take_back(_OF_INTEREST)
        kept = [region for region in regions if region.meaning != "ignored" or is_area_of_interest(region.name)]
    ignored = [region for region in regions if region.meaning == "ignored"]
    if not kept:
        reasons = "; ".join(left_out.notes())
        what = f"{where} has no {'valid ' if reasons else ''}areas" + (f" ({reasons})" if reasons else "")
        raise RegionError(what, "outline regions with polygons and export them again")
    notes = [f"{where}: {line}" for line in left_out.notes()]
    unreadable = sum(region.name == UNREADABLE for region in kept)
    if unreadable:
        notes.append(f"{where}: the class of {unreadable} outlines is unreadable; they count as neither normal nor anomalous")
    # Of the classes that end in *, Ignore* is kept; the others mark areas to analyse ("Region*").
    areas = tuple(region for region in ignored if "ignore" in region.name.casefold())
    return Annotations(kept, tuple(notes), areas, left_out.classed)


def _features(document: Any, where: str) -> list[Any]:
    remedy = "export the annotations as GeoJSON"
    if isinstance(document, list):
        return document
    if isinstance(document, dict) and "annotation" in document:
        raise RegionError(f"{where} is an annotation of HistomicsUI, not GeoJSON", remedy)
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection":
        features = document.get("features")
        if not isinstance(features, list | None):
            raise RegionError(f"the features of {where} are not a list", remedy)
        return features or []
    if kind == "Feature" or (isinstance(kind, str) and kind in (*_AREAS, *_NO_AREAS, "GeometryCollection")):
        return [document]
    raise RegionError(f"{where} is JSON but not GeoJSON", remedy)


def _geojson(features: list[Any], left_out: _LeftOut) -> Iterator[Region]:
    for number, feature in enumerate(features, start=1):
        place = f"feature {number}"
        if not isinstance(feature, dict):
            left_out.add(place, "not an object")
            continue
        geometry = feature.get("geometry", feature if "coordinates" in feature or "geometries" in feature else None)
        properties = feature.get("properties")
        stated = {key: value for key, value in feature.items() if key not in _OF_FEATURE}
        if isinstance(properties, dict):
            stated |= properties
        elif properties:
            stated["class"] = [[{"not": "understood"}]]
        kind = _kind_of_object(feature, stated)
        if kind in _NOT_OUTLINES:
            left_out.add(place, f"{_NOT_OUTLINES[kind]}, not annotations")
            continue
        name = class_of(stated)
        left_out.classed |= bool(name)
        called = stated.get("name")
        if isinstance(called, str) and called.strip() and called.strip() != name:
            place = f"{place} ({called.strip()[:40]})"
        area = _area(geometry, place, left_out)
        if area is not None and class_meaning(name) == "ignored":
            why = _OF_INTEREST if is_area_of_interest(name) else "of an ignored class"
            left_out.add(f"{place} {name}", why)
        if area is not None:
            yield Region(area, name, _measurements(stated.get("measurements")))


def _kind_of_object(feature: dict[str, Any], properties: dict[str, Any]) -> str:
    """Return QuPath's type of a feature: annotation, cell, tmacore, …; before 0.3 it is in the id."""
    if "nucleusGeometry" in feature or "nucleusGeometry" in properties:
        return "cell"
    if properties.get("isTMACore") or "isMissing" in properties:
        return "tmacore"
    for value in (properties.get("objectType"), properties.get("object_type"), feature.get("id")):
        if isinstance(value, str):
            plain = re.sub(r"[\s_-]", "", value).casefold()
            kind = re.sub(r"^path|(object)?s?$", "", plain)
            if kind in _NOT_OUTLINES:
                return kind
    return "annotation"


def _measurements(given: Any) -> dict[str, float]:
    """Return the finite measurements by name; they are an object, or before QuPath 0.4 a list of names and values."""
    if isinstance(given, list):
        given = {item.get("name"): item.get("value") for item in given if isinstance(item, dict) and "name" in item}
    pairs = given.items() if isinstance(given, dict) else ()
    numbers = ((str(k), float(v)) for k, v in pairs if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e300)
    return dict(numbers)


def _area(geometry: Any, place: str, left_out: _LeftOut) -> Polygon | MultiPolygon | None:
    """Return the polygons of a geometry or collection as one area in (y, x); None if there are none."""
    if not isinstance(geometry, dict):
        left_out.add(place, "without a geometry")
        return None
    waiting: list[Any] = [geometry]
    polygons, lines = [], False
    problems: list[str] = []
    while waiting:
        part = waiting.pop()
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "GeometryCollection" and isinstance(part.get("geometries"), list):
            waiting += part["geometries"]
        elif kind in _AREAS:
            coordinates = part.get("coordinates")
            several = coordinates if kind == "MultiPolygon" else [coordinates]
            for rings in several if isinstance(several, list) else [None]:
                polygon = _polygon(rings)
                if isinstance(polygon, str):
                    problems.append(polygon)
                else:
                    polygons.append(polygon)
        elif kind in _NO_AREAS:
            lines = True
        else:
            problems.append("with an unknown geometry")
    for why in problems if polygons else problems[:1]:
        left_out.add(f"a part of {place}" if polygons else place, why)
    if not polygons:
        if not problems:
            left_out.add(place, "points or lines" if lines else "without a geometry")
        return None
    if len(polygons) == 1:
        return polygons[0]
    return as_area(shapely.union_all(polygons), place)


def _polygon(rings: Any) -> Polygon | MultiPolygon | str:
    """Return the area of a polygon given as rings of (x, y), or the reason why it is invalid, such as an invalid hole."""
    if not isinstance(rings, list):
        return "with coordinates that form no polygon"
    try:
        corners = [np.array([[float(x) for x in point[:2]] for point in ring], float) for ring in rings]
    except (TypeError, ValueError, KeyError, OverflowError):
        return "with coordinates that form no polygon"
    corners = [ring for ring in corners if len(ring)]
    if not corners:
        return "with an empty outline"
    if any(ring.ndim != 2 or ring.shape[1] != 2 for ring in corners):
        return "with coordinates that form no polygon"
    if not all(np.isfinite(ring).all() for ring in corners):
        return "with coordinates that are not numbers"
    if len(corners[0]) < 3:
        return "enclosing no area"
    try:
        outline = as_area(Polygon(corners[0][:, ::-1], [ring[:, ::-1] for ring in corners[1:] if len(ring) >= 3]), "")
    except (RegionError, ValueError, shapely.errors.ShapelyError):
        return "enclosing no area"
    return outline if np.isfinite(outline.area) else "with coordinates that are not numbers"


def _camelyon(document: dict[str, Any], left_out: _LeftOut) -> Iterator[Region]:
    left_out.classed = True
    for key, name in (("positive", "positive"), ("negative", "Normal")):
        given = document.get(key)
        for number, item in enumerate(given if isinstance(given, list) else [], start=1):
            place = f"{key} polygon {number}"
            vertices = item.get("vertices") if isinstance(item, dict) else None
            polygon = _polygon([vertices])
            if isinstance(polygon, str):
                left_out.add(place, polygon)
            else:
                yield Region(polygon, name)
