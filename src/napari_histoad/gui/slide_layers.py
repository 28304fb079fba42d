"""Converts slides to napari layers, and any RGB layer to a slide.

This module imports only what opening a slide needs, so that the slide appears quickly.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image

from napari_histoad.errors import HistoadError, SlideError
from napari_histoad.slide import ArraySlide, can_open, is_slide, level_arrays, open_slide

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_histoad.slide import Slide

SLIDE_KEY = "histoad_slide"
"""Key of the layer metadata that holds the slide."""

BESIDE_KEY = "histoad_beside"
"""Key of the layer metadata that marks pictures beside a slide, such as its label."""


def pixel_size(mpp: float | None) -> dict[str, Any]:
    """Return ``scale`` and ``units`` of a layer in level-0 pixels."""
    return {"scale": (1.0, 1.0)} if mpp is None else {"scale": (mpp, mpp), "units": ("um", "um")}


def slide_layer(slide: Slide) -> tuple[Any, dict[str, Any], str]:
    """Return a slide as multiscale layer data."""
    looks = {
        "name": slide.name,
        "multiscale": True,
        "rgb": True,
        "metadata": {SLIDE_KEY: slide},
        **pixel_size(slide.mpp),
    }
    return level_arrays(slide), looks, "image"


def associated_layers(slide: Slide) -> list[tuple[Any, dict[str, Any], str]]:
    """Return label, macro and similar pictures as image layers left of the slide, each at most a third of its height."""
    side = slide.mpp or 1.0
    height, layers, top = slide.shape[0] * side, [], 0.0
    for name, read in slide.associated.items():
        pixels = read()
        scale = height / 3 / max(pixels.shape[:2])
        looks = {
            "name": f"{name.capitalize()} of {slide.name}",
            "rgb": True,
            "metadata": {BESIDE_KEY: True},
            **pixel_size(slide.mpp),
            "scale": (scale, scale),
            "translate": (top, -scale * pixels.shape[1] - 0.02 * height),
        }
        layers.append((pixels, looks, "image"))
        top += scale * pixels.shape[0] + 0.02 * height
    return layers


def can_be_slide(layer: Layer) -> bool:
    """Return whether a layer can be analysed: any RGB image that is not a label or macro picture."""
    return isinstance(layer, Image) and bool(layer.rgb) and BESIDE_KEY not in layer.metadata


def layer_shape(layer: Layer) -> tuple[int, int]:
    """Return (height, width) of the finest level of an RGB layer."""
    height, width = _levels(layer)[0].shape[-3:-1]
    return int(height), int(width)


def slide_of_layer(layer: Layer) -> Slide:
    """Return the slide of a layer: its file opened as a slide, else a slide of the layer's arrays. It is kept with the layer."""
    known = layer.metadata.get(SLIDE_KEY)
    if known is None or known.shape != layer_shape(layer):  # a copied layer may show a part of the slide
        known = layer.metadata[SLIDE_KEY] = _from_file(layer) or _from_arrays(layer)
    slide: Slide = known
    return slide


def _from_file(layer: Layer) -> Slide | None:
    path = layer.source.path
    if path is None or not Path(path).exists() or not (can_open(path) or (Path(path).is_dir() and is_slide(path))):
        return None
    try:
        slide = open_slide(path, srgb=True)
    except HistoadError:
        return None
    if slide.shape != tuple(_levels(layer)[0].shape[:2]):
        return None
    mpp_yx = _mpp_yx(layer)
    if slide.mpp is None and mpp_yx is not None and math.isclose(*mpp_yx, rel_tol=1e-3):
        return slide.with_mpp(mpp_yx[0])
    return slide


def _from_arrays(layer: Layer) -> Slide:
    arrays = [_plane(level, layer.name) for level in _levels(layer)]
    turned = not np.allclose(layer.affine.affine_matrix, np.eye(layer.ndim + 1)) or np.any(layer.rotate != np.eye(layer.ndim))
    if turned or np.any(np.asarray(layer.translate)[-2:] != 0):
        raise SlideError(
            f"the layer {layer.name} is shifted or turned", "reset its translate, rotate and affine, or open its file"
        )
    return ArraySlide(arrays, layer.name, mpp_yx=_mpp_yx(layer))


def _levels(layer: Layer) -> list[Any]:
    return list(layer.data) if layer.multiscale else [layer.data]


def _plane(array: Any, name: str) -> Any:
    """Return the plane (H, W, C) of an array whose leading axes have length 1."""
    extra = array.ndim - 3
    if any(n != 1 for n in array.shape[:extra]):
        raise SlideError(f"the layer {name} is a stack of {array.shape[:extra]} pictures", "choose a single plane of it")
    return array[(0,) * extra] if extra > 0 else array


def _mpp_yx(layer: Layer) -> tuple[float, float] | None:
    """Return µm per pixel (y, x), or None if the units of the layer are not lengths."""
    sizes = []
    for factor, unit in zip(layer.scale[-2:], layer.units[-2:], strict=True):
        quantity = float(factor) * unit
        if not quantity.check("[length]"):
            return None
        sizes.append(float(quantity.to("micrometer").magnitude))
    return sizes[0], sizes[1]
