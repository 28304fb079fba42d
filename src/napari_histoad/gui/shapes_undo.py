"""Undo and redo for shapes layers; napari has them for labels layers only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from app_model.types import KeyCode, KeyMod

if TYPE_CHECKING:
    from napari.layers import Shapes

_STEPS = 100
_KEPT = ("edge_width", "edge_color", "face_color", "z_index")


class ShapesHistory:
    """Records the shapes after each change; Ctrl+Z and Ctrl+Shift+Z undo and redo while the layer is selected."""

    def __init__(self, layer: Shapes) -> None:
        self._layer = layer
        self._states = [_state(layer)]
        self._at = 0
        self._restoring = False
        layer.events.data.connect(self._on_data)
        layer.bind_key(KeyMod.CtrlCmd | KeyCode.KeyZ, lambda _: self.undo(), overwrite=True)
        layer.bind_key(KeyMod.CtrlCmd | KeyMod.Shift | KeyCode.KeyZ, lambda _: self.redo(), overwrite=True)

    def undo(self) -> None:
        """Undo the last change."""
        self._layer._finish_drawing()  # a shape in progress is completed, and undone as the last change
        self._go_to(self._at - 1)

    def redo(self) -> None:
        """Redo the last undone change."""
        self._go_to(self._at + 1)

    def _on_data(self, event: Any) -> None:
        if self._restoring or getattr(event.action, "value", event.action) not in ("added", "removed", "changed"):
            return
        state = _state(self._layer)
        if not _same(state, self._states[self._at]):
            self._states = [*self._states[: self._at + 1], state][-_STEPS:]
            self._at = len(self._states) - 1

    def _go_to(self, number: int) -> None:
        if not 0 <= number < len(self._states):
            return
        self._at, self._restoring = number, True
        try:
            _restore(self._layer, self._states[number])
        finally:
            self._restoring = False


def _state(layer: Shapes) -> dict[str, Any]:
    state: dict[str, Any] = {name: np.array(getattr(layer, name)) for name in _KEPT}
    data = [np.array(vertices) for vertices in layer.data]
    return {**state, "data": data, "shape_type": list(layer.shape_type), "features": layer.features.copy()}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    outlines = zip(one["data"], other["data"], strict=False)
    return one["shape_type"] == other["shape_type"] and all(np.array_equal(a, b) for a, b in outlines)


def _restore(layer: Shapes, state: dict[str, Any]) -> None:
    layer.selected_data = set()
    layer.remove(list(range(layer.nshapes)))
    if state["data"]:
        looks = {name: list(state[name]) for name in _KEPT}
        layer.add([v.copy() for v in state["data"]], shape_type=state["shape_type"], **looks)
        layer.features = state["features"].copy()
    layer.refresh()
