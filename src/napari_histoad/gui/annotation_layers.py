"""Converts annotation files to shapes layers and back, for *File > Open* and *File > Save*."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari import current_viewer
from napari.layers import Shapes
from napari.utils.notifications import show_info, show_warning

from napari_histoad.errors import HistoadError, RegionError
from napari_histoad.gui.layer_data import NORMAL_COLOUR, NORMAL_NAME, outline_looks
from napari_histoad.gui.slide_layers import can_be_slide
from napari_histoad.regions import (
    UNREADABLE,
    Region,
    normal_regions,
    outside_note,
    read_annotations,
    regions_from_shapes,
    shapes_from_regions,
    write_geojson,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Layer
    from napari.viewer import Viewer

    LayerData = tuple[Any, dict[str, Any], str]

CLASS = "class"
"""Name of the feature that holds the class of a shape."""

_COLOURS = ("#d55e00", "#cc79a7", "#f0e442", "#009e73", "#e69f00", "#8c564b", "#9467bd", "#39ff14")


def slide_under(viewer: Viewer | None) -> Layer | None:
    """Return the layer of the slide in view: the active layer if it is a slide, else the topmost visible slide."""
    if viewer is None:
        return None
    active = viewer.layers.selection.active
    slides = [layer for layer in viewer.layers if can_be_slide(layer)]
    seen = [layer for layer in slides if layer.visible]
    return active if active in slides else (seen or slides or [None])[-1]


def read_annotation_layers(path: Path, under: Layer | None) -> list[LayerData]:
    """Return the outlines of a file as shapes layers over a slide: one for normal tissue, one for all other classes.

    Each shape has the feature ``class`` and the colour of its class; outlines are in level-0 pixels, so the layers get scale and
    units of the slide's layer. Notifications say what was left out or assumed.
    """
    normal, others, notes = read_by_class(path, under)
    for note in notes:
        show_info(note)
    layers = [_layer(normal, NORMAL_NAME, under)] if normal else []
    return [*layers, other_layer(path, others, under)] if others else layers


def read_by_class(path: Path, under: Layer | None) -> tuple[list[Region], list[Region], list[str]]:
    """Return outlines of normal tissue, those of other classes, and notes on what was left out, assumed or beyond the slide."""
    found = read_annotations(path)
    notes = list(found.notes)
    try:
        normal, assumed = normal_regions(found, path.name)
    except RegionError:
        normal = []
    else:
        notes += [] if found.classed else assumed
    others = [region for region in found.regions if not region.is_normal] if normal != found.regions else []
    if under is not None:
        shape = under.data.shapes[0] if under.multiscale else under.data.shape
        notes.append(outside_note(found.regions, tuple(shape[-3:-1]), under.name))
    return normal, others, [note for note in notes if note]


def other_layer(path: Path, others: Sequence[Region], under: Layer | None) -> LayerData:
    """Return outlines of classes other than normal tissue as a shapes layer over a slide."""
    return _layer(others, f"Annotations of {path.name.split('.')[0]}", under)


def _layer(regions: Sequence[Region], name: str, under: Layer | None) -> LayerData:
    data, classes = shapes_from_regions(regions)
    others = sorted({region.name for region in regions if not region.is_normal})
    colour_of = {other: _COLOURS[k % len(_COLOURS)] for k, other in enumerate(others)}
    colours = [NORMAL_COLOUR if name == NORMAL_NAME else colour_of[c] for c in classes]
    looks = outline_looks(name, colours) | {"shape_type": "polygon", "features": {CLASS: classes}}
    if under is not None:
        looks |= {"scale": tuple(under.scale[-2:]), "units": tuple(str(unit) for unit in under.units[-2:])}
        looks["translate"] = tuple(under.translate[-2:])
    return data, looks, "shapes"


def write_shapes(path: str, layers: Sequence[LayerData]) -> list[str]:
    """Write shapes layers as GeoJSON in level-0 pixels of the slide in view, each shape with its class.

    Lines, paths and other shapes without an area are left out; a notification says how many.
    """
    under, regions, left_out = slide_under(current_viewer()), [], 0
    for data, looks, _ in layers:
        layer = Shapes(data, **{**looks, "metadata": {}})
        classes = _classes(layer)
        for shape, kind, name in zip(layer.data, layer.shape_type, classes, strict=True):
            outline = shape if under is None else _in_pixels(shape, layer, under)
            try:
                areas = regions_from_shapes([outline], [kind], name)
            except HistoadError:
                areas = []
            regions += areas
            left_out += not areas
    if not regions:
        raise RegionError("no shape encloses an area", "draw polygons, rectangles or ellipses and save again")
    write_geojson(regions, path)
    if left_out:
        show_warning(f"{left_out} shapes without an area (lines, paths, points) were not written to {Path(path).name}")
    return [path]


def _in_pixels(shape: Any, layer: Shapes, under: Layer) -> Any:
    """Return vertices in level-0 pixels of a slide; the scale of their layer may differ from that of the slide."""
    return np.array([under.world_to_data(layer.data_to_world(vertex))[-2:] for vertex in shape[:, -2:]])


def _classes(layer: Shapes) -> list[str]:
    """Return the class of each shape; shapes without a class are normal in the layer of normal tissue."""
    default = "Normal" if layer.name.startswith(NORMAL_NAME) else ""
    column = next((c for c in layer.features.columns if str(c).casefold() in (CLASS, "classification", "label")), None)
    if column is None:
        return [default] * len(layer.data)
    values = layer.features[column]
    return [default if missing or v in ("", UNREADABLE) else str(v) for v, missing in zip(values, values.isna(), strict=True)]
