"""Layer data of outlines and maps: geometry and looks. Needs no window.

Layers of a slide with known resolution are in µm. napari puts the centre of pixel 0 at 0, so a layer of coarser
pixels is shifted by half a coarse pixel less half a fine one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import matplotlib as mpl
import numpy as np
from napari.layers import Labels, Shapes
from napari.utils import Colormap, DirectLabelColormap

from napari_histoad.gui.slide_layers import pixel_size
from napari_histoad.regions import shapes_from_regions
from napari_histoad.results import COLORMAP, display_range
from napari_histoad.tiles import ARTEFACT_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region
    from napari_histoad.tiles import TissueMask

    LayerData = tuple[Any, dict[str, Any], str]

NORMAL_NAME, NORMAL_COLOUR = "Normal tissue", "#1e90ff"
"""The layer that outlines of normal tissue are drawn in."""

MAP_KEY = "histoad_map"
"""Key of the layer metadata that holds the path of the layer's map."""

_MAX_HEATMAP_PX = 4096
_FLAG_COLOUR = "#00e5ff"
_ARTEFACT_COLOURS = ("#ff7f0e", "#d62728", "#17becf", "#1f3fd6", "#2ca02c", "#9467bd")
"""In the order of `ARTEFACT_KINDS`."""


def suspicious_layer(boxes: Sequence[tuple[float, float, float, float]], mpp: float | None) -> Shapes:
    """Return a layer of squares (y0, x0, y1, x1) in level-0 pixels: outlined tiles that may not be normal."""
    corners = [np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]]) for y0, x0, y1, x1 in boxes]
    looks = outline_looks("Suspicious tiles", "#ff8c00", 4)
    return Shapes(corners, shape_type="polygon", **looks, **pixel_size(mpp))


def outline_looks(name: str, colour: str | list[str], width: int = 6) -> dict[str, Any]:
    """Return name and looks of a layer of outlines with pale faces, in one colour or one colour per outline."""
    faces = f"{colour}22" if isinstance(colour, str) else [f"{one}22" for one in colour]
    return {"name": name, "edge_color": colour, "face_color": faces, "edge_width": width, "ndim": 2}


def regions_layer(regions: Sequence[Region], mpp: float | None, name: str, colour: str) -> LayerData:
    """Return outlines as Shapes layer data in level-0 pixels."""
    data, names = shapes_from_regions(regions)
    looks = outline_looks(name, colour) | {"shape_type": "polygon", "features": {"class": names}, **pixel_size(mpp)}
    return data, looks, "shapes"


def anomaly_colormap() -> Colormap:
    """Return the inferno colormap with transparent low values, so that normal tissue stays visible under the map."""
    colours = mpl.colormaps[COLORMAP](np.linspace(0.15, 1, 256))
    colours[:, 3] = np.clip(np.linspace(0, 2, 256), 0, 1)
    return Colormap(colours, name="anomaly")


class Heatmap:
    """The blended tile scores of a map in one texture `values`, filled in while the map is computed.

    Cells without a score have the lowest shown value, which is transparent.
    """

    def __init__(self, source: AnomalyMap) -> None:
        self.source = source
        shapes = source.geometry.level_shapes()
        self.level = next((i for i, s in enumerate(shapes) if max(s) <= _MAX_HEATMAP_PX), len(shapes) - 1)
        self.limits = display_range(source)
        self.values = np.full(shapes[self.level], self.limits[0], np.float32)
        self.update((0, 0, *source.geometry.shape))

    def update(self, box: tuple[int, int, int, int]) -> None:
        """Read a box (y0, x0, y1, x1) of finest cells from disk again."""
        f, (height, width) = 2**self.level, self.source.geometry.shape
        y0, x0, y1, x1 = box[0] // f, box[1] // f, -(-box[2] // f), -(-box[3] // f)
        part = self.source.score_field((y0 * f, x0 * f, min(y1 * f, height), min(x1 * f, width)))[::f, ::f]
        self.values[y0:y1, x0:x1] = np.where(np.isnan(part), self.limits[0], part)

    def layer(self) -> LayerData:
        """Return the heatmap as image layer data."""
        looks = {
            "name": f"Anomaly map of {self.source.info.slide}",
            "colormap": anomaly_colormap(),
            "contrast_limits": self.limits,
            "opacity": 0.75,
            "blending": "translucent",
            "interpolation2d": "linear",
            **_placed(self.source, self.level),
        }
        return self.values, looks, "image"


def _placed(source: AnomalyMap, level: int = 0) -> dict[str, Any]:
    """Return scale, position and metadata of a layer of a map's cells."""
    geometry, mpp = source.geometry, source.info.slide_mpp
    return {
        "scale": (geometry.scale(level) * mpp,) * 2,
        "translate": (geometry.translate(level) * mpp,) * 2,
        "units": ("um", "um"),
        "metadata": {MAP_KEY: str(source.path)},
    }


def error_layers(source: AnomalyMap) -> list[LayerData]:
    """Return the blended error maps, finer than the tiles, as hidden image layer data; none if the detector gives none."""
    stored = source.error_levels
    if not stored:
        return []
    coarsest = np.asarray(stored[-1])
    seen = coarsest[~np.isnan(coarsest)]
    top = float(np.quantile(seen, 0.99)) if len(seen) else 1.0
    return [_hidden(source, stored, f"Error map of {source.info.slide}", max(top, 1e-9), colormap="inferno")]


def class_layers(source: AnomalyMap) -> list[LayerData]:
    """Return the probability of each class as hidden image layer data; an empty list for a map without classes."""
    looks = {"colormap": anomaly_colormap(), "opacity": 0.75}
    return [
        _hidden(source, source.class_levels(k), f"Probability of {name}, {source.info.slide}", 1.0, **looks)
        for k, name in enumerate(source.info.classes if source.info.complete else ())
    ]


def _hidden(source: AnomalyMap, stored: list[Any], name: str, top: float, **looks: Any) -> LayerData:
    """Return a stored pyramid of a map, shown from 0 to ``top``, as image layer data that is hidden at first."""
    levels, several = [da.from_zarr(level) for level in stored], len(stored) > 1
    looks |= {"name": name, "contrast_limits": (0.0, top), "blending": "translucent", "visible": False, "multiscale": several}
    return levels if several else levels[0], looks | _placed(source), "image"


def labels_layer(source: AnomalyMap, labels: NDArray[np.uint32]) -> LayerData:
    """Return flagged regions as a Labels layer drawn as outlines."""
    looks = {
        "name": f"Flagged regions of {source.info.slide}",
        "opacity": 1.0,
        "colormap": DirectLabelColormap(color_dict={0: "transparent", None: _FLAG_COLOUR}),
        **_placed(source),
    }
    return labels, looks, "labels"


def artefact_layers(source: AnomalyMap) -> list[LayerData]:
    """Return the artefacts of a map, in a colour per kind, as Labels layer data; hidden if there is none, none if not looked for.

    The status bar names the kind under the cursor.
    """
    if source.artefacts is None:
        return []
    kinds = source.artefacts.kinds
    colours: dict[int | None, str] = dict(enumerate(("transparent", *_ARTEFACT_COLOURS)))
    looks = {
        "name": f"Artefacts of {source.info.slide}",
        "opacity": 0.5,
        "colormap": DirectLabelColormap(color_dict=colours | {None: "transparent"}),
        "features": {"index": range(1 + len(ARTEFACT_KINDS)), "artefact": ["none", *ARTEFACT_KINDS]},
        "visible": bool(kinds.any()),
        "metadata": {MAP_KEY: str(source.path)},
        **_of_coarse_pixels(source.artefacts.scale_yx, source.info.slide_mpp),
    }
    return [(kinds, looks, "labels")]


def heatmap_layers(source: AnomalyMap, rate: float | None = None) -> list[LayerData]:
    """Return heatmap and flagged regions of a map; for an unfinished map only the heatmap."""
    if not source.info.complete:
        return [Heatmap(source).layer()]
    layers = [*error_layers(source), *class_layers(source), *artefact_layers(source), Heatmap(source).layer()]
    return [*layers, labels_layer(source, source.flag(rate))]


def outline_labels(event: Any) -> None:
    """Draw flagged regions as outlines when they are added to a viewer; a reader cannot set that."""
    if isinstance(event.value, Labels) and MAP_KEY in event.value.metadata:
        event.value.contour = 1


def tissue_layer(tissue: TissueMask, mpp: float, name: str) -> LayerData:
    """Return the tissue mask as a Labels layer drawn as an outline."""
    looks = {
        "name": f"Tissue of {name}",
        "opacity": 0.9,
        **_of_coarse_pixels(tissue.scale_yx, mpp),
    }
    return tissue.mask.astype(np.uint8) * 3, looks, "labels"


def _of_coarse_pixels(scale_yx: tuple[float, float], mpp: float) -> dict[str, Any]:
    """Return scale and position of a layer whose pixels are ``scale_yx`` level-0 pixels high and wide."""
    return {
        "scale": tuple(s * mpp for s in scale_yx),
        "translate": tuple((s - 1) / 2 * mpp for s in scale_yx),
        "units": ("um", "um"),
    }
