"""Slide-level anomaly mapping: where does the tissue look unlike normal?

Importing this package loads neither torch, Qt nor napari; names are loaded on first use (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_histoad.detectors import load_detector, save_detector
    from napari_histoad.engine import map_slide, recalibrate, train
    from napari_histoad.evaluation import evaluate
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import read_regions, write_geojson
    from napari_histoad.results import measure_regions
    from napari_histoad.samples import write_sample
    from napari_histoad.slide import open_slide
    from napari_histoad.tiles import find_tissue

__all__ = [
    "AnomalyMap",
    "evaluate",
    "find_tissue",
    "load_detector",
    "map_slide",
    "measure_regions",
    "open_slide",
    "read_regions",
    "recalibrate",
    "save_detector",
    "train",
    "write_geojson",
    "write_sample",
]

__version__ = "0.1.0"

_HOMES = {
    "AnomalyMap": "maps",
    "evaluate": "evaluation",
    "find_tissue": "tiles",
    "load_detector": "detectors",
    "map_slide": "engine",
    "measure_regions": "results",
    "open_slide": "slide",
    "read_regions": "regions",
    "recalibrate": "engine",
    "save_detector": "detectors",
    "train": "engine",
    "write_geojson": "regions",
    "write_sample": "samples",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
