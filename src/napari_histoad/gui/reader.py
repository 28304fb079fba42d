"""What napari calls to open slides and maps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari import current_viewer
from napari.utils.notifications import show_error

from napari_histoad.errors import HistoadError
from napari_histoad.gui.idle import collect_while_idle
from napari_histoad.gui.slide_layers import slide_layer
from napari_histoad.slide import can_open, open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["get_reader"]


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Any]] | None:
    """Return a reader if the paths look like slides or anomaly maps, else None."""
    paths = [path] if isinstance(path, str) else list(path)
    return _read if paths and all(_is_map(Path(p)) or _is_slide(Path(p)) for p in paths) else None


def _is_map(path: Path) -> bool:
    return path.name.endswith(".ome.zarr") and (path / "tiles").is_dir() and (path / "calibration").is_dir()


def _is_slide(path: Path) -> bool:
    if not can_open(path) or not path.exists():
        return False
    if path.is_file():
        return True
    try:  # many an OME-Zarr is no RGB picture: those are left to other readers
        open_slide(path).close()
    except HistoadError:
        return False
    return True


def _read(path: str | Sequence[str]) -> list[Any]:
    layers: list[Any] = []
    for name in [path] if isinstance(path, str) else path:
        try:
            if _is_map(Path(name)):
                from napari_histoad.gui.layers import heatmap_layers
                from napari_histoad.maps import AnomalyMap

                layers += heatmap_layers(AnomalyMap.open(name))
            else:
                layers.append(slide_layer(open_slide(name, srgb=True)))
        except HistoadError as err:
            show_error(str(err))
    viewer = current_viewer()
    if viewer is not None:
        collect_while_idle(viewer)
    return layers or [(None,)]
