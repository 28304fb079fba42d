"""Provenance of a map, and the empty OME-Zarr 0.5 group it is filled into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict

from napari_histoad.calibration import CalibrationBasis, ValidFor  # noqa: TC001 - pydantic reads them
from napari_histoad.maps._chunks import COMPRESSORS
from napari_histoad.maps._geometry import MapGeometry
from napari_histoad.slide import SlideFingerprint  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histoad.calibration import Calibration
    from napari_histoad.tiles import ArtefactMask, TissueMask

BLOCK_TILES = 64
"""Tiles in a block, the unit of work and of writing."""

FORMAT = 3
"""Version of the layout: see `AnomalyMap`."""

ATTRIBUTE = "napari_histoad"
"""The Zarr attribute that holds the provenance."""

RECALIBRATION = "recalibration"
"""The group of the calibration by outlines on this slide."""

_CHUNK, _ROWS = 256, 4096

_FLAT: Any = {"name": "default", "separator": "."}
"""All chunks of a column in one folder: one per block would cost more time than what is written there."""


class MapInfo(BaseModel):
    """Provenance: what is needed to know where a map comes from, and to repeat it.

    The tile grid is described by `TileGrid`, the cells by `MapGeometry`. Fields that may be None are None in older maps.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    slide: str  # file name
    slide_shape: tuple[int, int]  # level-0 (height, width)
    slide_mpp: float  # µm per level-0 pixel
    tile_px: int
    stride_px: int
    mpp: float
    tile_l0: float
    step_l0: int
    cell_l0: float
    cells_per_tile: int
    cells_per_step: int
    tiles: int
    detector: str  # name of the method
    detector_settings: dict[str, Any]
    detector_id: str  # hash of settings and weights
    trained_on: list[str]  # names of the training slides
    stain: tuple[float, ...] = ()  # with stain normalisation: the slide's own stains, see `Stain.values`
    classes: tuple[str, ...] = ()  # whose probabilities the map holds
    calibration_note: str  # in one sentence, what the p-values rest on, see `Calibration.note`
    calibration_basis: CalibrationBasis | None = None  # the same as data
    valid_for: ValidFor = "similar"  # what error rates are valid for, unless another choice was saved with the regions
    version: str  # of this package
    complete: bool = False  # every tile has been read, or tried
    failed_tiles: int = 0  # that could not be decoded; they are NaN
    regions: str | None = None  # digest of those that the map was restricted to; empty: the whole slide
    fingerprint: SlideFingerprint | None = None  # of the slide, by which it is recognised
    slide_file: str = ""  # absolute path or URL; empty if there is none, or it holds a signature or a password
    slide_relative: str = ""  # path relative to the folder that holds the map
    tissue_from: str = "found"  # found on the slide, or the regions that were mapped
    artefacts: str | None = None  # what was done about them, see `tiles.ARTEFACTS`
    notes: list[str] = []  # on what was assumed, restricted and, once complete, found; see `AnomalyMap.notes`

    @property
    def geometry(self) -> MapGeometry:
        """The cells of the map."""
        shape = (int(np.ceil(self.slide_shape[0] / self.cell_l0)), int(np.ceil(self.slide_shape[1] / self.cell_l0)))
        return MapGeometry(shape, self.slide_shape, self.cell_l0, self.cells_per_tile, self.cells_per_step, self.step_l0)


def write_skeleton(
    folder: Path,
    info: MapInfo,
    origins: NDArray[np.int64],
    tissue: TissueMask,
    calibration: Calibration,
    artefacts: ArtefactMask | None = None,
) -> None:
    """Write a map without results; every array is there, all scores are NaN. Artefacts are known before tiles are scored."""
    n, c = len(origins), info.cells_per_tile
    group = zarr.create_group(folder, zarr_format=3)
    for name, values in (
        ("tiles/origins", origins.astype(np.int64)),
        ("tissue", tissue.mask),
        *((calibration_array(name), values) for name, values in calibration.arrays.items()),
    ):
        array = group.create_array(name, shape=values.shape, chunks=chunks_of(values.shape, 2048), dtype=values.dtype)
        array[:] = values
        if name == "tissue":
            array.attrs["scale_yx"] = list(tissue.scale_yx)
    columns = {"score": ((), _ROWS), "p_value": ((), _ROWS), "error_map": ((c, c), BLOCK_TILES)}
    columns |= {f"probability_{k}": ((), _ROWS) for k in range(len(info.classes))}
    for name, (shape, rows) in columns.items():
        _create_values(group, f"tiles/{name}", (n, *shape), (rows, *shape), chunk_key_encoding=_FLAT)
    if artefacts is not None:
        values = artefacts.probabilities
        array = _create_values(group, "artefacts", values.shape, chunks_of(values.shape))
        array.attrs["scale_yx"] = list(artefacts.scale_yx)
        array[:] = values
        column = _create_values(group, "tiles/artefact", (n,), (_ROWS,), chunk_key_encoding=_FLAT)
        column[:] = artefacts.of_boxes(np.concatenate([origins, origins + info.tile_l0], axis=1)).sum(axis=1)
    create_pyramid(group, "anomaly map", info.geometry, info.slide_mpp)
    group.attrs[ATTRIBUTE] = info.model_dump(mode="json")


def calibration_array(name: str) -> str:
    """Return the name under which an array of a calibration is stored in a map."""
    return "calibration" if name == "scores" else f"calibration_{name}"


def create_pyramid(group: zarr.Group, name: str, geometry: MapGeometry, mpp: float) -> list[zarr.Array[Any]]:
    """Return the levels of a new float32 pyramid over the cells of a map, NaN throughout, finest first."""
    group.attrs["ome"] = multiscales(name, geometry, mpp)
    return [
        _create_values(group, str(level), shape, chunks_of(shape), dimension_names=("y", "x"))
        for level, shape in enumerate(geometry.level_shapes())
    ]


def _create_values(
    group: zarr.Group, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], **options: Any
) -> zarr.Array[Any]:
    return group.create_array(
        name, shape=shape, chunks=chunks, dtype="<f4", fill_value=np.nan, compressors=COMPRESSORS, filters=None, **options
    )


def halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return means over 2 × 2 cells that ignore NaN; an odd last row or column stands alone."""
    h, w = values.shape
    padded = np.pad(values, ((0, h % 2), (0, w % 2)), constant_values=np.nan)
    total, count = np.zeros((2, padded.shape[0] // 2, padded.shape[1] // 2), np.float32)
    for part in (padded[y::2, x::2] for y in (0, 1) for x in (0, 1)):
        there = ~np.isnan(part)
        np.add(total, part, out=total, where=there)
        count += there
    # Not 0 / 0: that is another NaN than the one of cells never written, and the bytes would tell where a run was cut.
    means = np.full(total.shape, np.nan, np.float32)
    np.divide(total, count, out=means, where=count > 0)
    return means


def chunks_of(shape: tuple[int, ...], side: int = _CHUNK) -> tuple[int, ...]:
    """Return the chunk shape of an array."""
    return tuple(max(1, min(side, n)) for n in shape)


def multiscales(name: str, geometry: MapGeometry, mpp: float) -> dict[str, Any]:
    """Return the OME-Zarr 0.5 metadata of a pyramid in µm."""
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [geometry.scale(level) * mpp] * 2},
                {"type": "translation", "translation": [geometry.translate(level) * mpp] * 2},
            ],
        }
        for level in range(len(geometry.level_shapes()))
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": datasets}]}
