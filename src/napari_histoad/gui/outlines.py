"""The outlines of normal tissue: one layer of shapes per slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Shapes

from napari_histoad.gui.layers import NORMAL_NAME
from napari_histoad.gui.slide_layers import pixel_size
from napari_histoad.regions import regions_from_shapes, shapes_from_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.layers import Layer
    from napari.viewer import Viewer
    from shapely.geometry.base import BaseGeometry

    from napari_histoad.regions import Region

__all__ = ["NormalOutlines"]

_SAME_PX = 0.5
_OUTLINES_OF = "histoad_outlines_of"
"""Where the metadata of a layer of outlines say which slide they were drawn on."""


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
        """Return the layers of outlines of normal tissue, of all slides."""
        return [y for y in self._viewer.layers if isinstance(y, Shapes) and y.name.startswith(NORMAL_NAME)]

    def layer(self) -> Shapes | None:
        """Return the layer of the chosen slide's outlines, if there is one."""
        return next((y for y in self.layers() if self._on_chosen_slide(y)), None)

    def claim(self) -> None:
        """Assign outlines that came without a slide to the chosen one."""
        slide_layer = self._chosen()
        if slide_layer is not None:
            for outlines in self.layers():
                outlines.metadata.setdefault(_OUTLINES_OF, _named(slide_layer))

    def show_chosen(self) -> None:
        """Show the outlines of the chosen slide and hide the others."""
        for outlines in self.layers():
            outlines.visible = self._on_chosen_slide(outlines)

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
        """Return the outlines of the chosen slide in its level-0 pixels."""
        layer, slide_layer = self.layer(), self._chosen()
        if layer is None or slide_layer is None:
            return []
        # Through world coordinates: the outlines may have been drawn in a layer with another scale.
        data = [np.array([slide_layer.world_to_data(layer.data_to_world(v)) for v in shape]) for shape in layer.data]
        return regions_from_shapes(data, list(layer.shape_type), "Normal")

    def _on_chosen_slide(self, outlines: Shapes) -> bool:
        chosen = _named(self._chosen())
        return bool(outlines.metadata.get(_OUTLINES_OF, chosen) == chosen)

    def _need_layer(self) -> Shapes:
        layer, slide_layer = self.layer(), self._chosen()
        if layer is None:
            um = slide_layer is not None and [str(u) for u in slide_layer.units[-2:]] == ["micrometer"] * 2
            looks = pixel_size(float(slide_layer.scale[-1]) if um and slide_layer is not None else None)
            layer = Shapes(name=NORMAL_NAME, ndim=2, edge_color="#1e90ff", face_color="#1e90ff22", edge_width=6, **looks)
            self._viewer.add_layer(layer)
        return layer


def _named(layer: Layer | None) -> str:
    """Return what tells a slide's layer from others, also when it is opened again."""
    return "" if layer is None else str(layer.source.path or layer.name)


def _same_place(one: BaseGeometry, other: BaseGeometry) -> bool:
    return bool(np.allclose(one.bounds, other.bounds, atol=_SAME_PX))
