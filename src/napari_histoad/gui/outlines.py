"""The outlines of normal tissue: shapes layers, at least one per slide, that are saved and can be undone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from psygnal import Signal

from napari_histoad.errors import RegionError
from napari_histoad.gui.autosave import read_outlines
from napari_histoad.gui.layer_data import NORMAL_COLOUR, NORMAL_NAME, outline_looks
from napari_histoad.gui.shapes_undo import ShapesHistory
from napari_histoad.gui.slide_layers import pixel_size
from napari_histoad.gui.slide_view import own, owner_of, size_of
from napari_histoad.regions import regions_from_shapes, shapes_from_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.layers import Layer
    from napari.viewer import Viewer
    from shapely.geometry.base import BaseGeometry

    from napari_histoad.gui.autosave import Autosave
    from napari_histoad.regions import Region

_SAME_PX = 0.5
_NORMAL = "histoad_normal"
"""Key of the layer metadata that says whether the shapes outline normal tissue, also after the layer was renamed."""


class NormalOutlines:
    """Manages the outlines of all open slides; those of the chosen slide are drawn, saved and used for training."""

    tiles_added = Signal(int)
    """Number of tiles that were judged normal and added to the outlines."""

    def __init__(self, viewer: Viewer, chosen: Callable[[], Layer | None], autosave: Autosave) -> None:
        self._viewer, self._chosen, self._autosave = viewer, chosen, autosave
        self._histories: dict[Layer, ShapesHistory] = {}
        for layer in viewer.layers:
            self.added(layer)
        viewer.layers.events.removing.connect(self._on_removing)
        viewer.layers.events.removed.connect(self._on_removed)

    def close(self) -> None:
        """Save pending changes, and disconnect from the viewer."""
        self._autosave.close()
        self._viewer.layers.events.removing.disconnect(self._on_removing)
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        for layer in self._histories:
            layer.events.data.disconnect(self._on_data)

    def added(self, layer: Layer) -> None:
        """Save changes of a new layer and make them undoable, if it holds outlines of normal tissue."""
        if _is_normal(layer) and layer not in self._histories:
            self._follow(layer)
            if layer.nshapes and owner_of(layer) is not None and owner_of(layer) == owner_of(self._chosen()):
                self._autosave.changed()  # it was opened from a file, or duplicated

    def _follow(self, layer: Shapes) -> None:
        self._histories[layer] = ShapesHistory(layer)
        layer.events.data.connect(self._on_data)

    def open(self, slide_layer: Layer, folder: Path, name: str, *, elsewhere: bool) -> int:
        """Save the outlines of another slide from now on; return the number restored from an earlier session."""
        owner = owner_of(slide_layer) or ""
        path = slide_layer.source.path
        # Results beside a slide may be moved with it; in another folder only the full path identifies the slide.
        slide = owner if elsewhere or path is None else f"{Path(path).name} {size_of(slide_layer)}"
        file = self._autosave.open(folder, name, slide, lambda: self._shapes(slide_layer), elsewhere=elsewhere)
        if file is None or any(layer.nshapes for layer in self._layers_of(slide_layer)):
            return 0
        data, kinds = read_outlines(file)
        if data:
            for layer in self._layers_of(slide_layer):
                self._viewer.layers.remove(layer)  # an empty one
            self._new_layer(slide_layer, data, kinds)
        self._autosave.restored()
        return len(data)

    def _on_data(self, event: Any) -> None:
        if owner_of(event.source) == owner_of(self._chosen()):
            self._autosave.changed()

    def _on_removing(self, _: Any) -> None:
        self._autosave.flush()

    def _on_removed(self, event: Any) -> None:
        if self._histories.pop(event.value, None) is not None:
            event.value.events.data.disconnect(self._on_data)
            if event.value.nshapes and owner_of(event.value) == owner_of(self._chosen()):
                self._autosave.removed()

    def layers(self) -> list[Shapes]:
        """Return the layers of outlines of the chosen slide; the user may have copied one or added another."""
        slide_layer = self._chosen()
        return [] if slide_layer is None else self._layers_of(slide_layer)

    def _layers_of(self, slide_layer: Layer) -> list[Shapes]:
        owner = owner_of(slide_layer)
        return [y for y in self._viewer.layers if _is_normal(y) and owner is not None and owner_of(y) == owner]

    def draw(self) -> None:
        """Select the layer of outlines and its drawing tool."""
        layer = self._need_layer()
        self._viewer.layers.selection.active = layer
        layer.mode = "add_polygon_lasso"

    def add(self, regions: Sequence[Region]) -> int:
        """Add regions to the outlines of the chosen slide; return the number of new ones."""
        there = [region.geometry for region in self.regions()]
        new = [region for region in regions if not any(_same_place(region.geometry, known) for known in there)]
        slide_layer = self._chosen()
        if new and slide_layer is not None:
            layer = self._need_layer()
            outlines, _ = shapes_from_regions(new)
            layer.add_polygons([np.array([layer.world_to_data(slide_layer.data_to_world(v)) for v in o]) for o in outlines])
        return len(new)

    def regions(self) -> list[Region]:
        """Return the outlines of the chosen slide in level-0 pixels; equal outlines of copied layers are returned once."""
        slide_layer = self._chosen()
        regions: list[Region] = []
        for layer in self.layers():
            assert slide_layer is not None
            # By world coordinates: the scale of the outlines may differ from that of the slide.
            data = [np.array([slide_layer.world_to_data(layer.data_to_world(v)) for v in shape]) for shape in layer.data]
            for region in regions_from_shapes(data, list(layer.shape_type), "Normal"):
                if not any(region.geometry.equals(known.geometry) for known in regions):
                    regions.append(region)
        return regions

    def _need_layer(self) -> Shapes:
        layers = self.layers()
        if layers:
            return next((y for y in layers if y is self._viewer.layers.selection.active), layers[0])
        slide_layer = self._chosen()
        assert slide_layer is not None
        return self._new_layer(slide_layer)

    def _new_layer(self, slide_layer: Layer, data: Sequence[Any] = (), kinds: Sequence[str] = ()) -> Shapes:
        um = [str(u) for u in slide_layer.units[-2:]] == ["micrometer"] * 2
        looks = pixel_size(float(slide_layer.scale[-1]) if um else None)
        shapes = {"data": list(data), "shape_type": list(kinds)} if data else {}
        layer = Shapes(**shapes, **outline_looks(NORMAL_NAME, NORMAL_COLOUR), **looks)
        own(layer, owner_of(slide_layer))
        self._follow(layer)  # before it is added: restored outlines need not be saved
        self._viewer.add_layer(layer)
        return layer

    def _shapes(self, slide_layer: Layer) -> tuple[list[Region], list[str]]:
        """Return all areas of a slide and their shape types, without shapes that have no area."""
        regions: list[Region] = []
        kinds: list[str] = []
        for layer in self._layers_of(slide_layer):
            for vertices, kind in zip(layer.data, layer.shape_type, strict=True):
                outline = np.array([slide_layer.world_to_data(layer.data_to_world(v)) for v in vertices])
                with suppress(RegionError):
                    found = regions_from_shapes([outline], [kind], "Normal")
                    regions += found
                    kinds += [kind] * len(found)
        return regions, kinds


def _is_normal(layer: Layer) -> bool:
    return isinstance(layer, Shapes) and layer.metadata.setdefault(_NORMAL, layer.name.startswith(NORMAL_NAME))


def _same_place(one: BaseGeometry, other: BaseGeometry) -> bool:
    return bool(np.allclose(one.bounds, other.bounds, atol=_SAME_PX))
