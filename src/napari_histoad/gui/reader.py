"""The napari reader for slides, anomaly maps and annotations."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari import current_viewer
from napari.utils.notifications import show_error, show_info

from napari_histoad.errors import HistoadError
from napari_histoad.gui.garbage_collection import collect_while_idle
from napari_histoad.gui.slide_layers import slide_layer
from napari_histoad.slide import can_open, is_slide, open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOOKED_AT = 65536
_MARKS = (b"FeatureCollection", b'"Feature"', b'"positive"', b'"negative"', b'"Polygon"', b'"MultiPolygon"')


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Any]] | None:
    """Return a reader if all paths are slides, anomaly maps or annotations, else None."""
    paths = [path] if isinstance(path, str) else list(path)
    return _read if paths and all(_is_ours(Path(p)) for p in paths) else None


def _is_ours(path: Path) -> bool:
    return _is_map(path) or _is_annotation_file(path) or _is_slide(path)


def _is_map(path: Path) -> bool:
    return path.name.endswith(".ome.zarr") and (path / "tiles").is_dir() and (path / "calibration").is_dir()


def _is_annotation_file(path: Path) -> bool:
    """Return whether a file is GeoJSON by its name, or JSON whose beginning looks like annotations."""
    name = path.name.lower()
    if name.endswith((".geojson", ".geojson.gz")):
        return path.is_file()
    if not name.endswith(".json") or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT).replace(b"\0", b"")
    except OSError:
        return False
    return any(mark in start for mark in _MARKS)


def _is_slide(path: Path) -> bool:
    if not path.is_dir():
        return can_open(path) and path.exists()
    if not is_slide(path):
        return False
    try:  # an OME-Zarr that is not an RGB picture is left to other readers
        open_slide(path).close()
    except HistoadError:
        return False
    return True


def _read_map(path: str) -> list[Any]:
    """Open the slide of a map, if it is found, and return the layers of the map."""
    from napari_histoad.gui.layer_data import heatmap_layers, outline_labels
    from napari_histoad.gui.slide_of_map import slide_layer_of
    from napari_histoad.maps import AnomalyMap

    source, viewer = AnomalyMap.open(path), current_viewer()
    if viewer is not None:
        viewer.layers.events.inserted.connect(outline_labels)
        words = ""
        with suppress(HistoadError):  # the panel shows the reason and asks for the slide
            words = "" if slide_layer_of(source, viewer) is not None else f"The slide {source.info.slide} was not found. "
        if not any(name.startswith("Anomaly mapping") for name in viewer.window.dock_widgets):
            show_info(f"{words}Open Plugins > Anomaly mapping to review the map of {source.info.slide}.")
    return heatmap_layers(source)


def _read(path: str | Sequence[str]) -> list[Any]:
    layers: list[Any] = []
    for name in [path] if isinstance(path, str) else path:
        try:
            if _is_map(Path(name)):
                layers += _read_map(name)
            elif _is_annotation_file(Path(name)):
                from napari_histoad.gui.annotation_layers import read_annotation_layers, slide_under

                layers += read_annotation_layers(Path(name), slide_under(current_viewer()))
            else:
                layers.append(slide_layer(open_slide(name, srgb=True)))
        except HistoadError as err:
            show_error(str(err))
    viewer = current_viewer()
    if viewer is not None:
        collect_while_idle(viewer)
    return layers or [(None,)]
