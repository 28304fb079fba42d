"""Finds the slide of a map: among the open slides, else at the path that the map states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image

from napari_histoad.errors import HistoadError, MapError
from napari_histoad.gui.slide_layers import can_be_slide, slide_layer, slide_of_layer
from napari_histoad.slide import is_remote, open_slide

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_histoad.maps import AnomalyMap
    from napari_histoad.slide import Slide


def slide_layer_of(source: AnomalyMap, viewer: Viewer) -> Layer | None:
    """Return the layer of a map's slide, opened if needed; None if it is not found, `MapError` if it is another slide."""
    place = source.find_slide()
    slides = [layer for layer in viewer.layers if can_be_slide(layer)]
    for layer in reversed(slides):
        try:
            slide = slide_of_layer(layer)
        except HistoadError:  # the layer is not a slide
            continue
        if is_of_slide(source, slide):
            return layer
    return None if place is None else open_slide_of(source, place, viewer)


def is_of_slide(source: AnomalyMap, slide: Slide) -> bool:
    """Return whether a map was computed from a slide; maps of earlier versions are compared by size and name only."""
    return (source.info.fingerprint is not None or slide.file_name == source.info.slide) and source.is_of(slide)


def open_slide_of(source: AnomalyMap, place: Path, viewer: Viewer) -> Layer:
    """Open the slide of a map as a layer; `MapError` if it is another slide."""
    slide = open_slide(place, srgb=True)
    try:
        source.check_slide(slide)
    except MapError:
        slide.close()
        raise
    if not is_remote(slide.path):
        slide.close()
        layer: Layer = viewer.open(str(slide.path), plugin="napari-histoad")[0]
        return layer
    data, looks, _ = slide_layer(slide)
    return viewer.add_layer(Image(data, **looks))
