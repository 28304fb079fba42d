"""A probability layer per class beside the anomaly map, written in bands when all tiles are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import writing
from napari_histoad.maps._layout import ATTRIBUTE, chunks_of, multiscales

if TYPE_CHECKING:
    import zarr

    from napari_histoad.maps._store import AnomalyMap

__all__ = ["write_class_layers"]

_BAND_CELLS = 512


def write_class_layers(source: AnomalyMap, group: zarr.Group) -> None:
    """Write ``classes/0``, ``classes/1``, …: a float32 pyramid of each class's probability, NaN where nothing is scored.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    geometry = source.geometry
    shapes = geometry.level_shapes()
    with writing(source.path):
        parent = group.require_group("classes")
        parent.attrs[ATTRIBUTE] = {"classes": list(source.info.classes)}
        for k, name in enumerate(source.info.classes):
            image = parent.create_group(str(k), overwrite=True)
            image.attrs["ome"] = multiscales(f"probability of {name}", geometry, source.info.slide_mpp)
            levels = [
                image.create_array(
                    str(level),
                    shape=shape,
                    chunks=chunks_of(shape),
                    dtype="float32",
                    fill_value=np.nan,
                    dimension_names=("y", "x"),
                )
                for level, shape in enumerate(shapes)
            ]
            for y in range(0, geometry.shape[0], _BAND_CELLS):
                band = source.field(f"probability_{k}", (y, 0, min(y + _BAND_CELLS, geometry.shape[0]), geometry.shape[1]))
                for level, array in enumerate(levels):
                    step = 2**level
                    first, stop = -(-y // step), min(-(-(y + len(band)) // step), array.shape[0])
                    if first < stop:
                        array[first:stop] = band[first * step - y :: step, ::step][: stop - first, : array.shape[1]]
