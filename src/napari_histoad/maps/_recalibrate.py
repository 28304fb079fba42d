"""Sets the rates of a finished map by normal tissue that is outlined on its slide; no tile is scored again."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import shapely
import zarr

from napari_histoad.calibration import Calibration, CalibrationBasis
from napari_histoad.errors import MapError, RegionError, SettingsError
from napari_histoad.maps._layout import ATTRIBUTE, RECALIBRATION, chunks_of
from napari_histoad.maps._pyramids import save_labels
from napari_histoad.regions import coverage
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.maps._anomaly_map import AnomalyMap
    from napari_histoad.regions import Region

_MIN_COVER = 0.5
_CELLS = 2000
"""Cells of an outline that are used, evenly spaced: neighbours are nearly equal."""


def recalibrate_map(target: AnomalyMap, regions: Sequence[Region]) -> None:
    """Set p-values and thresholds of a finished map by outlines of normal tissue on its slide, and outline its regions again.

    The scores of tiles that are at least half inside an outline replace those of the detector's calibration, and the cells of the
    anomaly map inside set the threshold of regions. Both are stored in the map; scores do not change.

    Parameters
    ----------
    target : AnomalyMap
        Finished.
    regions : sequence of Region
        Outlines of normal tissue, in level-0 pixels.

    Raises
    ------
    MapError
        If the map is not finished.
    SettingsError
        If the detector was trained on the slide: its scores there are too low to set a threshold.
    RegionError
        If no scored tile is inside.
    TooFewTilesError
        If fewer than 10 are.
    OutputError
        If the map cannot be written.
    """
    info = target.info
    if not info.complete:
        raise MapError(f"the map {target.path.name} is not finished", "run the same command again to resume it")
    if info.slide in info.trained_on:
        msg = f"the detector was trained on {info.slide}: its scores on normal tissue there are too low to set a threshold"
        raise SettingsError(msg, "train it again with these outlines, or recalibrate a map of another slide")
    cover = np.array([coverage(target.boxes, [region]) for region in regions]).reshape(len(regions), len(target))
    scores = target.scores
    used = (cover.max(axis=0, initial=0) >= _MIN_COVER) & ~np.isnan(scores)
    if not used.any():
        msg = f"no mapped tile of {info.slide} is inside the outlines of normal tissue"
        raise RegionError(msg, "outline larger areas, on the tissue that was mapped")
    basis = CalibrationBasis("outlines", outlined=True, sources=1, names=(info.slide,))
    tiles = Calibration.from_scores(
        scores[used], groups=cover[:, used].argmax(axis=0), slides=np.zeros(int(used.sum()), np.int64), basis=basis
    )
    cells = [_cells(target, region) for region in regions]
    outline = np.repeat(np.arange(len(cells)), [len(values) for values in cells])
    field = Calibration.from_scores(np.concatenate(cells), groups=outline, slides=np.zeros_like(outline), basis=basis)
    with atomic_path(target.path / RECALIBRATION) as folder:
        group = zarr.create_group(folder, zarr_format=3)
        for name, values in replace(tiles, field=field).arrays.items():
            array = group.create_array(name, shape=values.shape, chunks=chunks_of(values.shape, 2048), dtype=values.dtype)
            array[:] = values
        assert tiles.basis is not None
        group.attrs[ATTRIBUTE] = asdict(tiles.basis)
    target.take_recalibration()
    save_labels(target, target.calibration.default_rate)


def _cells(target: AnomalyMap, region: Region) -> NDArray[np.float32]:
    """Return the scores of cells of the anomaly map whose centres are inside an outline, evenly spaced."""
    side, (height, width) = target.geometry.cell_l0, target.geometry.shape
    bounds = np.array(region.geometry.bounds) / side
    y0, x0 = np.maximum(np.floor(bounds[:2]), 0).astype(int).tolist()
    y1, x1 = np.minimum(np.ceil(bounds[2:]), (height, width)).astype(int).tolist()
    if y0 >= y1 or x0 >= x1:
        return np.empty(0, np.float32)
    step = max(1, int(np.sqrt(region.geometry.area / side**2 / _CELLS)))
    y, x = np.meshgrid(np.arange(y0, y1, step), np.arange(x0, x1, step), indexing="ij")
    values = target.score_field((y0, x0, y1, x1))[::step, ::step]
    inside = shapely.contains_xy(region.geometry, (y + 0.5) * side, (x + 0.5) * side) & ~np.isnan(values)
    return np.asarray(values[inside], np.float32)
