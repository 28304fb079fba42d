"""Shows the layers of the chosen slide and hides those of other slides; selecting a layer chooses its slide."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image

from napari_histoad.gui.layer_data import MAP_KEY
from napari_histoad.gui.slide_layers import SLIDE_KEY, can_be_slide, layer_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Layer
    from napari.viewer import Viewer

_OWNER = "histoad_slide_of"
"""Key of the layer metadata that identifies the slide of the layer."""
_ROLE = "histoad_role"
"""Key of the layer metadata with the original name: napari adds numbers to equal names, and users rename layers."""


def owner_of(layer: Layer | None) -> str | None:
    """Return the identity of the slide that a layer belongs to, which depends on file and size only, or None."""
    if layer is None:
        return None
    known: str | None = layer.metadata.get(_OWNER)
    if can_be_slide(layer) and (known is None or not known.endswith(size_of(layer))):
        known = layer.metadata[_OWNER] = f"{_file(layer) or uuid4().hex} {size_of(layer)}"
    return known


def own(layer: Layer, owner: str | None) -> None:
    """Set the slide that a layer belongs to."""
    if owner is not None:
        layer.metadata[_OWNER] = owner


def has_role(layer: Layer) -> bool:
    """Return whether a layer was added or adopted by the panel."""
    return _ROLE in layer.metadata


def _file(layer: Layer) -> str | None:
    slide = layer.metadata.get(SLIDE_KEY)
    path = layer.source.path or (slide.path if slide is not None and slide.on_disk else None)
    if path is None:
        return None
    return str(Path(path).resolve()) if Path(path).exists() else str(path)


def size_of(layer: Layer) -> str:
    """Return height and width of a slide's layer as text."""
    height, width = layer_shape(layer)
    return f"{height} x {width}"


class SlideView:
    """Shows the layers of the chosen slide, and chooses the slide whose layer is added, selected or made visible.

    ``choose(layer)`` is called when a slide shall be chosen, and must call `show`; ``renamed()`` when a layer was renamed.
    """

    def __init__(self, viewer: Viewer, choose: Callable[[Layer], None], renamed: Callable[[], None]) -> None:
        self._viewer, self._choose, self._renamed = viewer, choose, renamed
        self.owner: str | None = None
        self.layer: Layer | None = None
        self._visible: WeakKeyDictionary[Layer, bool] = WeakKeyDictionary()  # as set by the user, of layers of hidden slides
        self._cameras: dict[str, tuple[Any, Any]] = {}
        self._watched: WeakKeyDictionary[Layer, bool] = WeakKeyDictionary()
        self._switching = False
        viewer.layers.selection.events.active.connect(self._on_active)
        for layer in viewer.layers:
            self.added(layer)

    def close(self) -> None:
        """Disconnect from the viewer."""
        self._viewer.layers.selection.events.active.disconnect(self._on_active)
        for layer in list(self._watched):
            layer.events.visible.disconnect(self._on_visible)
            layer.events.name.disconnect(self._on_name)

    def added(self, layer: Layer) -> None:
        """Watch a new layer; layers that are drawn or opened over the chosen slide belong to it."""
        dropped = MAP_KEY in layer.metadata  # it is adopted when its slide is known
        if owner_of(layer) is None and not isinstance(layer, Image) and not dropped:
            own(layer, self.owner)
        if layer not in self._watched:
            self._watched[layer] = True
            layer.events.visible.connect(self._on_visible)
            layer.events.name.connect(self._on_name)

    def show(self, chosen: Layer | None) -> None:
        """Show the layers of a slide as the user left them, and hide those of other slides."""
        owner, self.layer = owner_of(chosen), chosen
        if chosen is None or owner == self.owner:
            self.owner = owner
            return
        camera, first = self._viewer.scene.camera, self.owner is None
        if self.owner is not None:
            self._cameras[self.owner] = camera.center, camera.zoom
        assert owner is not None
        self.owner, self._switching = owner, True
        try:
            for layer in self._viewer.layers:
                self.added(layer)  # outlines drawn before any slide was opened belong to the first slide
                self._set_visible(layer)
            if not any(y.visible for y in self._viewer.layers if can_be_slide(y) and owner_of(y) == owner):
                chosen.visible = True
            if owner_of(self._viewer.layers.selection.active) not in (None, owner):
                self._viewer.layers.selection.active = chosen  # else the next outline would be drawn in a layer of another slide
        finally:
            self._switching = False
        if owner in self._cameras:
            camera.center, camera.zoom = self._cameras[owner]
        elif not first:  # napari fits the view to the first slide itself
            self._viewer.reset_view(layers=[chosen])

    def _set_visible(self, layer: Layer) -> None:
        owner = owner_of(layer)
        if owner == self.owner:
            if layer in self._visible:
                layer.visible = self._visible.pop(layer)
        elif owner is not None and layer not in self._visible:
            self._visible[layer] = layer.visible
            layer.visible = False

    def rescale(self, chosen: Layer, scale: Any, units: Any) -> None:
        """Change the size of a slide's pixels; layers drawn on it stay on the same pixels."""
        former = np.array(chosen.scale[-2:])
        for layer in self._viewer.layers:
            same = layer is chosen or (owner_of(layer) == owner_of(chosen) and np.allclose(layer.scale[-2:], former))
            if same:
                leading = layer.ndim - 2
                layer.scale = (*layer.scale[:leading], *scale)
                layer.translate = (*layer.translate[:leading], *(layer.translate[leading:] * np.array(scale) / former))
                layer.units = (*layer.units[:leading], *units)

    def replace(self, layer: Layer) -> Layer:
        """Add a layer to the chosen slide, and remove its layer of the same name."""
        own(layer, self.owner)
        layer.metadata[_ROLE] = layer.name
        for old in list(self._viewer.layers):
            same = old.metadata.get(_ROLE, old.name) == layer.name and type(old) is type(layer)
            if same and owner_of(old) in (None, self.owner) and not can_be_slide(old):
                self._viewer.layers.remove(old)
        return self._viewer.add_layer(layer)

    def adopt(self, layer: Layer) -> None:
        """Treat an opened layer as if `replace` had added it to the chosen slide."""
        own(layer, self.owner)
        layer.metadata.setdefault(_ROLE, re.sub(r" \[\d+\]$", "", layer.name))

    def _on_active(self, event: Any) -> None:
        self._choose_slide_of(event.value)

    def _on_visible(self, event: Any) -> None:
        if event.source.visible and event.source in self._viewer.layers:
            self._choose_slide_of(event.source)

    def _on_name(self, _: Any) -> None:
        self._renamed()

    def _choose_slide_of(self, layer: Layer | None) -> None:
        """Choose the slide that a selected or shown layer belongs to."""
        owner = owner_of(layer)
        if self._switching or layer is None or owner in (None, self.owner):
            return
        slides = [y for y in self._viewer.layers if can_be_slide(y) and owner_of(y) == owner]
        if slides:
            if layer.visible:
                self._visible[layer] = True
            self._choose(layer if layer in slides else slides[-1])
