"""The layers of the map in the window: the heatmap that fills in, error maps, class probabilities, flagged regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels
from superqt.utils import qthrottled

from napari_histoad.errors import MapError
from napari_histoad.gui.layer_data import MAP_KEY, Heatmap, artefact_layers, class_layers, error_layers, labels_layer
from napari_histoad.gui.slide_view import owner_of

if TYPE_CHECKING:
    from qtpy.QtCore import QObject

    from napari_histoad.gui.controller import Review
    from napari_histoad.gui.section import PanelContext
    from napari_histoad.maps import AnomalyMap

_REFRESH_MS = 200


class MapLayers:
    """Adds, updates and removes the layers of the chosen slide's map; ``parent`` owns the timer of the heatmap."""

    def __init__(self, context: PanelContext, parent: QObject) -> None:
        self._context, self._viewer = context, context.viewer
        self._heatmap: Heatmap | None = None
        self._heat_layer: Image | None = None
        self._labels: Labels | None = None
        self._labelled: AnomalyMap | None = None
        self._refresh_soon = qthrottled(self._refresh, timeout=_REFRESH_MS, leading=False, parent=parent)

    def forget(self) -> None:
        """Update the layers no more; they stay in the viewer."""
        self._heatmap = self._heat_layer = None

    def start(self, source: AnomalyMap) -> None:
        """Show the heatmap of a map that is being computed, in place of all layers of the former map."""
        self._remove_former(source)
        self._draw_heatmap(source)

    def show(self, source: AnomalyMap) -> None:
        """Show a finished map, in place of the layers of the former one; layers that are shown already stay."""
        there = [y for y in self._viewer.layers if y.metadata.get(MAP_KEY) == str(source.path)]
        if not there or any(self._is_former(y, source) for y in self._viewer.layers):
            self._remove_former(source)
            self.draw(source)

    def draw(self, source: AnomalyMap) -> None:
        """Draw a finished map again, with the contrast of its final scores."""
        for data, looks, _ in (*error_layers(source), *class_layers(source)):
            self._context.view.replace(Image(data, **looks))
        for data, looks, _ in artefact_layers(source):
            self._context.view.replace(Labels(data, **looks))
        self._draw_heatmap(source)

    def update(self, box: tuple[int, int, int, int]) -> None:
        """Read a box (y0, x0, y1, x1) of finest cells again that the running job has written."""
        if self._heatmap is None:
            return
        try:
            self._heatmap.update(box)
        except MapError:  # it was deleted: the job that writes it reports that
            self._heatmap = None
            return
        self._refresh_soon()

    def flag(self, review: Review) -> None:
        """Show the flagged regions at a threshold."""
        source = review.map
        if self._labels is None or self._labels not in self._viewer.layers or self._labelled is not source:
            data, looks, _ = labels_layer(source, review.labels)
            self._labels, self._labelled = self._context.view.replace(Labels(data, **looks)), source
            self._labels.contour = 1
        else:
            self._labels.data = review.labels

    def _refresh(self) -> None:
        if self._heat_layer is not None and self._heat_layer in self._viewer.layers:
            self._heat_layer.refresh()

    def _draw_heatmap(self, source: AnomalyMap) -> None:
        self._heatmap = Heatmap(source)
        data, looks, _ = self._heatmap.layer()
        self._heat_layer = self._context.view.replace(Image(data, **looks))

    def _is_former(self, layer: Any, source: AnomalyMap) -> bool:
        """Return whether a layer shows another map of the chosen slide, or an earlier state of this one."""
        mine = owner_of(layer) == owner_of(self._context.slide_layer)
        return mine and MAP_KEY in layer.metadata and not (source.info.complete and layer.metadata[MAP_KEY] == str(source.path))

    def _remove_former(self, source: AnomalyMap) -> None:
        for layer in [y for y in self._viewer.layers if self._is_former(y, source)]:
            self._viewer.layers.remove(layer)
