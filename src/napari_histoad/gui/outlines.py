"""The outlines of normal tissue: one layer of shapes per slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Shapes

from napari_histoad.gui.layers import NORMAL_NAME
from napari_histoad.gui.slide_layers import pixel_size
from napari_histoad.gui.slide_view import own, owner_of
from napari_histoad.regions import regions_from_shapes, shapes_from_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.layers import Layer
    from napari.viewer import Viewer
    from shapely.geometry.base import BaseGeometry

    from napari_histoad.regions import Region

__all__ = ["NormalOutlines"]

_SAME_PX = 0.5
_NORMAL = "histoad_normal"
"""Where the metadata of a layer of shapes say whether they outline normal tissue, also after it was renamed."""


class NormalOutlines:
    """The layers of outlines of all slides that are open, and which of them belongs to the chosen slide.

    Parameters
    ----------
    viewer : Viewer
    chosen : callable
        Returns the layer of the chosen slide, or None.
    """

    def __init__(self, viewer: Viewer, chosen: Callable[[], Layer | None]) -> None:
        self._viewer, self._chosen = viewer, chosen

    def layers(self) -> list[Shapes]:
        """Return the layers of outlines of the chosen slide: a user may have copied one, or added another."""
        owner = owner_of(self._chosen())
        return [y for y in self._viewer.layers if _is_normal(y) and owner is not None and owner_of(y) == owner]

    def draw(self) -> None:
        """Let the user draw on the chosen slide."""
        layer = self._need_layer()
        self._viewer.layers.selection.active = layer
        layer.mode = "add_polygon_lasso"

    def add(self, regions: Sequence[Region]) -> int:
        """Add regions to the outlines of the chosen slide; return how many were not there before."""
        there = [region.geometry for region in self.regions()]
        new = [region for region in regions if not any(_same_place(region.geometry, known) for known in there)]
        slide_layer = self._chosen()
        if new and slide_layer is not None:
            layer = self._need_layer()
            outlines, _ = shapes_from_regions(new)
            layer.add_polygons([np.array([layer.world_to_data(slide_layer.data_to_world(v)) for v in o]) for o in outlines])
        return len(new)

    def regions(self) -> list[Region]:
        """Return the outlines of the chosen slide in its level-0 pixels; of equal ones, in a copied layer, one."""
        slide_layer = self._chosen()
        regions: list[Region] = []
        for layer in self.layers():
            assert slide_layer is not None
            # Through world coordinates: the outlines may have been drawn in a layer with another scale.
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
        um = slide_layer is not None and [str(u) for u in slide_layer.units[-2:]] == ["micrometer"] * 2
        looks = pixel_size(float(slide_layer.scale[-1]) if um and slide_layer is not None else None)
        layer = Shapes(name=NORMAL_NAME, ndim=2, edge_color="#1e90ff", face_color="#1e90ff22", edge_width=6, **looks)
        own(layer, owner_of(slide_layer))
        self._viewer.add_layer(layer)
        return layer


def _is_normal(layer: Layer) -> bool:
    return isinstance(layer, Shapes) and layer.metadata.setdefault(_NORMAL, layer.name.startswith(NORMAL_NAME))


def _same_place(one: BaseGeometry, other: BaseGeometry) -> bool:
    return bool(np.allclose(one.bounds, other.bounds, atol=_SAME_PX))
