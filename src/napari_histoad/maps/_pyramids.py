"""Pyramids and label image of a map, computed from its scored tiles and written in bands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from napari_histoad.jobs import Progress
from napari_histoad.maps._chunks import FILES_AT_ONCE, ChunkFiles, commit_chunks
from napari_histoad.maps._labels import BAND_CELLS
from napari_histoad.maps._layout import ATTRIBUTE, chunks_of, create_pyramid, halve, multiscales
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_histoad.jobs import Job
    from napari_histoad.maps._anomaly_map import AnomalyMap, Box

_STAGE = "Writing the map"
_BOX_CELLS = 2**19
"""Blended at a time: memory does not grow with the slide."""


def pyramids_job(source: AnomalyMap) -> Job[None]:
    """Write the pyramids of the anomaly map, the error maps and the class probabilities.

    The bytes depend only on the tile table and the error maps of the tiles.
    """
    info = source.info
    fields: list[tuple[list[zarr.Array[Any]], Callable[[Box], NDArray[np.float32]]]] = [(source.levels, source.score_field)]
    if source.has_error_maps:
        with atomic_path(source.path / "errors") as folder:
            create_pyramid(zarr.create_group(folder, zarr_format=3), "error map", source.geometry, info.slide_mpp)
        fields.append((source.pyramid("errors/"), source.error_field))
    if info.classes:
        with atomic_path(source.path / "classes") as folder:
            parent = zarr.create_group(folder, zarr_format=3)
            parent.attrs[ATTRIBUTE] = {"classes": list(info.classes)}
            for k, name in enumerate(info.classes):
                create_pyramid(parent.create_group(str(k)), f"probability of {name}", source.geometry, info.slide_mpp)
        fields += [(source.class_levels(k), partial(source.field, f"probability_{k}")) for k in range(len(info.classes))]
    height = source.geometry.shape[0]
    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="map-files") as pool:
        for number, (levels, field) in enumerate(fields):
            for rows in _fill_pyramid(source, levels, field, pool):
                yield Progress(_STAGE, number * height + rows, len(fields) * height, "steps", path=str(source.path))


def _fill_pyramid(
    source: AnomalyMap, levels: list[zarr.Array[Any]], field: Callable[[Box], NDArray[np.float32]], pool: ThreadPoolExecutor
) -> Iterator[int]:
    """Write all levels of a pyramid, one row of chunks of the finest level after the other; yield how many rows are done."""
    files = [ChunkFiles(source.path, level) for level in levels]
    done = [0] * len(levels)
    halves: list[list[NDArray[np.float32]]] = [[] for _ in levels]
    (height, width), (rows, columns) = levels[0].shape, levels[0].chunks
    wide = max(columns, _BOX_CELLS // rows)
    for y in range(0, height, rows):
        bottom = min(y + rows, height)
        band = np.concatenate([field((y, x, bottom, min(x + wide, width))) for x in range(0, width, wide)], axis=1)
        writes = []
        for k, level in enumerate(levels):  # two bands of a level make one of the next
            row, side = done[k] // level.chunks[0], level.chunks[1]
            for column in range(-(-level.shape[1] // side)):
                chunk = band[:, column * side : (column + 1) * side]
                writes.append(pool.submit(files[k].write, (row, column), chunk))
            done[k] += len(band)
            halves[k].append(halve(band))
            if len(halves[k]) < 2 and done[k] < level.shape[0]:
                break
            band, halves[k] = np.concatenate(halves[k]), []
        commit_chunks((write.result() for write in writes), pool)
        yield bottom


def save_labels(source: AnomalyMap, rate: float | None = None) -> None:
    """Write the numbered regions as the OME-Zarr label image ``anomalous`` of a map, replacing earlier ones.

    The threshold has the false-positive rate ``rate``, by default `AnomalyMap.default_rate`.
    """
    rate = source.default_rate if rate is None else rate
    with atomic_path(source.path / "labels") as folder:
        labels = zarr.create_group(folder, zarr_format=3)
        labels.attrs["ome"] = {"version": "0.5", "labels": ["anomalous"]}
        image = labels.create_group("anomalous")
        image.attrs["ome"] = {**multiscales("anomalous", source.geometry, source.info.slide_mpp), "image-label": {}}
        calibration = source.calibration
        about = {"false_positive_rate": rate, "valid_for": calibration.valid_for, "extrapolated": calibration.extrapolated}
        image.attrs[ATTRIBUTE] = about
        levels = [
            image.create_array(str(level), shape=shape, chunks=chunks_of(shape), dtype="uint32", fill_value=0)
            for level, shape in enumerate(source.geometry.level_shapes())
        ]
        for number, band in enumerate(source.flag_bands(rate)):
            y = number * BAND_CELLS
            for level, array in enumerate(levels):  # numbers have no mean: every 2nd, 4th, … cell
                step = 2**level
                first, stop = -(-y // step), min(-(-(y + len(band)) // step), array.shape[0])
                if first < stop:
                    array[first:stop] = band[first * step - y :: step, ::step][: stop - first, : array.shape[1]]
