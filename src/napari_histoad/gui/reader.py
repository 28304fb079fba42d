"""What napari calls to open slides, maps and the sample."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error

from napari_histoad.errors import HistoadError
from napari_histoad.gui.layers import heatmap_layers, regions_layer, slide_layer
from napari_histoad.jobs import run
from napari_histoad.slide import can_open, open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    LayerData = tuple[Any, dict[str, Any], str]

__all__ = ["SAMPLE_PX", "get_reader", "open_sample"]

SAMPLE_PX = 6144


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[Any]] | None:
    """Return a reader if the paths look like slides or anomaly maps, else None."""
    paths = [path] if isinstance(path, str) else list(path)
    if paths and all(_is_map(Path(p)) or (Path(p).is_file() and can_open(p)) for p in paths):
        return _read
    return None


def _is_map(path: Path) -> bool:
    return path.name.endswith(".ome.zarr") and (path / "tiles").is_dir() and (path / "calibration").is_dir()


def _read(path: str | Sequence[str]) -> list[Any]:
    layers: list[Any] = []
    for name in [path] if isinstance(path, str) else path:
        try:
            if _is_map(Path(name)):
                from napari_histoad.maps import AnomalyMap

                layers += heatmap_layers(AnomalyMap.open(name))
            else:
                layers.append(slide_layer(open_slide(name)))
        except HistoadError as err:
            show_error(str(err))
    return layers or [(None,)]


def open_sample() -> list[LayerData]:
    """Draw the sample slide, once, and return it with its outlines of normal tissue and of the planted anomalies."""
    from napari_histoad.samples import SlidePlan, sample_job

    plan = SlidePlan(SAMPLE_PX)
    path = Path(tempfile.gettempdir()) / f"napari-histoad-sample-{SAMPLE_PX}-v1" / "sample.tif"
    try:
        if not path.exists():
            run(sample_job(path, plan))
        slide = open_slide(path)
    except HistoadError as err:
        show_error(str(err))
        return [(None,)]  # type: ignore[list-item]
    truth = regions_layer(plan.planted, slide.require_mpp(), "Planted anomalies", "#39ff14")
    truth[1]["visible"] = False  # for looking at afterwards
    return [slide_layer(slide), truth, regions_layer(plan.normal, slide.require_mpp(), NORMAL_NAME, "#1e90ff")]


NORMAL_NAME = "Normal tissue"
