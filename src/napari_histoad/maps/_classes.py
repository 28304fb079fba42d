"""A probability layer per class beside the anomaly map, written in bands when all tiles are scored."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import zarr

from napari_histoad.maps._layout import ATTRIBUTE, create_pyramid, halve
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from napari_histoad.maps._store import AnomalyMap

__all__ = ["write_class_layers"]

_BAND_CELLS = 512


def write_class_layers(source: AnomalyMap) -> None:
    """Write ``classes/0``, ``classes/1``, …: a float32 pyramid of each class's probability, NaN where nothing is scored.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    geometry = source.geometry
    with atomic_path(source.path / "classes") as folder:
        parent = zarr.create_group(folder, zarr_format=3)
        parent.attrs[ATTRIBUTE] = {"classes": list(source.info.classes)}
        for k, name in enumerate(source.info.classes):
            image = parent.create_group(str(k))
            levels = create_pyramid(image, f"probability of {name}", geometry, source.info.slide_mpp)
            for y in range(0, geometry.shape[0], _BAND_CELLS):
                bottom = min(y + _BAND_CELLS, geometry.shape[0])
                levels[0][y:bottom] = source.field(f"probability_{k}", (y, 0, bottom, geometry.shape[1]))
            for finer, coarser in pairwise(levels):
                for y in range(0, coarser.shape[0], _BAND_CELLS):
                    coarser[y : y + _BAND_CELLS] = halve(np.asarray(finer[2 * y : 2 * (y + _BAND_CELLS)]))
