"""The anomaly map on disk: an OME-Zarr 0.5 group.

::

    case.ome.zarr/
      0, 1, …           the anomaly map: float32 pyramid of the tile scores blended over the cells; NaN = not scored
      errors/0, 1, …    float32 pyramid of the blended error maps, if the detector gives error maps
      classes/0/0, …    float32 pyramid of each class's probability, if a classifier goes with the detector
      labels/anomalous  regions above the threshold, numbered
      tiles/            origins, score, p_value, error_map, probability_0, …: one row per tile; error_map has one chunk per
                        block, or none
      tissue            the tissue mask
      artefacts         probabilities of each kind of artefact, if these were looked for; tiles/artefact: their sum, by tile
      calibration       scores of held-out normal tiles; calibration_groups and calibration_slides: their groups and slides
      recalibration/    the same of tiles in outlines on this slide, if these set its rates, and of cells (field_…)
      journal           finished blocks, one per line; removed when the map is complete

During a run, only the columns of ``tiles`` and the journal are written, see `MapWriter`; pyramids and labels follow when all
tiles are scored, see `finish_job`. In maps of formats 1 and 2 the levels 0, 1, … hold the blended error maps, if there are any.
"""

from __future__ import annotations

import json
import os
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import zarr
from pydantic import TypeAdapter, ValidationError

from napari_histoad.calibration import Calibration, CalibrationBasis, Discoveries, ValidFor, find_discoveries
from napari_histoad.errors import MapError
from napari_histoad.maps._blend import blend_grid
from napari_histoad.maps._chunks import ChunkFiles
from napari_histoad.maps._journal import Journal
from napari_histoad.maps._labels import flag_bands
from napari_histoad.maps._layout import ATTRIBUTE, BLOCK_TILES, RECALIBRATION, MapInfo, calibration_array
from napari_histoad.maps._slide import check_slide, find_slide
from napari_histoad.tiles import ArtefactMask, TissueMask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike

    from numpy.typing import NDArray

    from napari_histoad.slide import Slide

    Box = tuple[int, int, int, int]


class AnomalyMap:
    """An anomaly map on disk, to be read; see `AnomalyMap.open`.

    Attributes
    ----------
    path : Path
    info : MapInfo
    geometry : MapGeometry
    calibration : Calibration
        What its `valid_for` says, p-values, thresholds and rates are valid for; see `use_rates_for`.
    recalibrated : bool
        Whether outlines on this slide set its rates, see `recalibrate_map`.
    """

    def __init__(self, path: Path, group: zarr.Group, info: MapInfo) -> None:
        self.path, self._group, self.info = path, group, info
        self.geometry = info.geometry
        self.calibration = self._mapped_with = _stored_calibration(group, calibration_array, info.calibration_basis)
        self._read_recalibration()
        self._known: dict[tuple[str, int], NDArray[np.float32]] = {}
        self._whole: dict[str, NDArray[np.float32]] = {}
        saved = self._saved.get("valid_for")
        self.use_rates_for(saved if saved in get_args(ValidFor) else info.valid_for)
        if self._saved.get("extrapolated") is True and not self.calibration.tail_check.problem:
            self.use_tail()

    @classmethod
    def open(cls, path: str | PathLike[str]) -> AnomalyMap:
        """Open a map, finished or not.

        Raises
        ------
        MapError
            If there is no map or it is damaged.
        """
        folder = Path(path)
        try:
            group = zarr.open_group(folder, mode="r+" if os.access(folder, os.W_OK) else "r")
            info = MapInfo.model_validate(group.attrs[ATTRIBUTE])
            return cls(folder, group, info)
        except (FileNotFoundError, KeyError, ValueError, ValidationError, TypeError, OSError) as err:
            if not folder.exists():
                raise MapError(f"there is no anomaly map {folder}", "check the path, or make one with histoad map") from err
            msg = f"{folder} is not an anomaly map, or a damaged one"
            raise MapError(msg, "give the .ome.zarr folder that histoad map wrote, or map the slide again") from err

    def _read_recalibration(self) -> None:
        self.recalibrated = RECALIBRATION in self._group
        if self.recalibrated:
            part = cast("zarr.Group", self._group[RECALIBRATION])
            basis = TypeAdapter(CalibrationBasis).validate_python(part.attrs[ATTRIBUTE])
            self.calibration = _stored_calibration(part, str, basis)

    def take_recalibration(self) -> None:
        """Use the calibration by outlines on this slide, which was written to disk."""
        self._group = zarr.open_group(self.path, mode="r+")
        self._read_recalibration()

    def take_info(self, info: MapInfo) -> None:
        """Use other provenance, which was written to disk, and read again what depends on it."""
        self.info = info
        self._known.clear()
        self._whole.clear()

    # -- tiles

    def column(self, name: str) -> zarr.Array[Any]:
        """Return a column of the tile table: ``score``, ``p_value``, ``error_map``, ``probability_0``, …."""
        return self._array(f"tiles/{name}")

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            return cast("zarr.Array[Any]", self._group[name])
        except KeyError as err:
            msg = f"the map {self.path} was deleted or moved meanwhile: its {name} is missing"
            raise MapError(msg, "put it back, or map the slide again") from err

    def __len__(self) -> int:
        return self.info.tiles

    @cached_property
    def origins(self) -> NDArray[np.int64]:
        """(N, 2) int64: tile origins (y, x) in level-0 pixels."""
        return np.asarray(self._array("tiles/origins"))

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) float32: tile scores; NaN = not scored."""
        return np.asarray(self._array("tiles/score"))

    @property
    def p_values(self) -> NDArray[np.float32]:
        """(N,) float32: p-values of the tiles, valid for what `calibration` is valid for; NaN = not scored.

        On disk, the column ``p_value`` holds those for tissue like that of the calibration.
        """
        if self.calibration.valid_for == "similar" and not self.recalibrated and not self.calibration.extrapolated:
            return np.asarray(self._array("tiles/p_value"))
        return self.calibration.p_value(self.scores)

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, K) float32: probability of each of ``info.classes``; NaN = not scored."""
        columns = [np.asarray(self._array(f"tiles/probability_{k}")) for k in range(len(self.info.classes))]
        return np.stack(columns, 1) if columns else np.empty((self.info.tiles, 0), np.float32)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(N, 4) float64: (y0, x0, y1, x1) of every tile in level-0 pixels."""
        return np.concatenate([self.origins, self.origins + self.info.tile_l0], axis=1)

    @property
    def unread_tiles(self) -> NDArray[np.int64]:
        """(n,) int64: rows of the tiles that could not be read, among those of finished blocks."""
        rows = np.flatnonzero(np.isnan(self.scores)).astype(np.int64)
        return rows if self.info.complete else rows[np.isin(rows // BLOCK_TILES, list(self.finished_blocks()))]

    @property
    def block_count(self) -> int:
        """Number of blocks of 64 tiles."""
        return -(-self.info.tiles // BLOCK_TILES)

    def finished_blocks(self) -> set[int]:
        """Return which blocks are done."""
        if self.info.complete:
            return set(range(self.block_count))
        return Journal(self.path).blocks() & set(range(self.block_count))

    @cached_property
    def error_chunks(self) -> ChunkFiles:
        """The files of the stored error maps, one chunk per block."""
        return ChunkFiles(self.path, self._array("tiles/error_map"))

    def error_maps(self, block: int) -> NDArray[np.float32] | None:
        """Return the stored error maps of a block, (B, c, c) float32, NaN = not scored; None without error maps."""
        if not self.error_chunks.file(block, 0, 0).exists():
            return None
        return self.error_chunks.read(block, 0, 0)[: self.info.tiles - block * BLOCK_TILES]

    @property
    def has_error_maps(self) -> bool:
        """Whether the detector gave error maps."""
        return any(self.error_chunks.file(block, 0, 0).exists() for block in range(self.block_count))

    # -- slide

    def check_slide(self, slide: Slide) -> None:
        """Check that a slide is the one that was mapped, by its size and some of its pixels.

        Raises
        ------
        MapError
            If it is another one.
        """
        check_slide(self.info, slide, self.path.name)

    def is_of(self, slide: Slide) -> bool:
        """Return whether a slide is the one that was mapped, see `check_slide`."""
        try:
            self.check_slide(slide)
        except MapError:
            return False
        return True

    def find_slide(self) -> Path | None:
        """Return the path of the slide: relative to the map, where it was, or by its name near the map; None if not found.

        It is not opened: `check_slide` says whether it is still the same one. An URL is returned unchanged, unless it held a
        signature or a password.
        """
        return find_slide(self.info, self.path)

    # -- pyramids

    @property
    def levels(self) -> list[zarr.Array[Any]]:
        """The stored float32 pyramid, finest first: the anomaly map, or see `levels_hold_errors`."""
        return self.pyramid("")

    @property
    def levels_hold_errors(self) -> bool:
        """Whether `levels` are blended error maps, as in maps of formats 1 and 2 if the detector gave error maps."""
        return self.info.format < 3 and self.has_error_maps

    @property
    def error_levels(self) -> list[zarr.Array[Any]]:
        """The stored float32 pyramid of the blended error maps, finest first; empty without error maps."""
        if self.levels_hold_errors:
            return self.levels
        return self.pyramid("errors/") if "errors" in self._group else []

    def class_levels(self, number: int) -> list[zarr.Array[Any]]:
        """Return the stored float32 pyramid of a class's probability, finest first."""
        return self.pyramid(f"classes/{number}/")

    def pyramid(self, group: str) -> list[zarr.Array[Any]]:
        """Return the levels of a stored pyramid, finest first, in a group such as ``"errors/"``."""
        return [self._array(f"{group}{i}") for i in range(len(self.geometry.level_shapes()))]

    @cached_property
    def tissue(self) -> TissueMask:
        """The tissue mask that the run used."""
        array = self._array("tissue")
        scale_y, scale_x = cast("tuple[float, float]", array.attrs["scale_yx"])
        return TissueMask(np.asarray(array), (float(scale_y), float(scale_x)))

    @cached_property
    def artefacts(self) -> ArtefactMask | None:
        """Where the slide has artefacts; None if they were not looked for."""
        if "artefacts" not in self._group:
            return None
        array = self._array("artefacts")
        scale_y, scale_x = cast("tuple[float, float]", array.attrs["scale_yx"])
        return ArtefactMask(np.asarray(array), (float(scale_y), float(scale_x)))

    @cached_property
    def _cells(self) -> NDArray[np.int64]:
        return self.geometry.tile_cells(self.origins)

    def tissue_cells(self, y0: int, x0: int, y1: int, x1: int) -> NDArray[np.bool_]:
        """Return which cells of a box are tissue."""
        mask, (scale_y, scale_x) = self.tissue.mask, self.tissue.scale_yx
        rows = np.minimum(((np.arange(y0, y1) + 0.5) * self.geometry.cell_l0 / scale_y).astype(int), mask.shape[0] - 1)
        columns = np.minimum(((np.arange(x0, x1) + 0.5) * self.geometry.cell_l0 / scale_x).astype(int), mask.shape[1] - 1)
        cells: NDArray[np.bool_] = mask[rows].take(columns, axis=1)  # six times as fast as both at once
        return cells

    def score_field(self, box: Box | None = None) -> NDArray[np.float32]:
        """Return the anomaly map: the tile scores blended over the cells, to which thresholds are applied.

        A cell's value is the weighted mean of the scores of the tiles that cover it, so calibrated thresholds hold for it.

        Parameters
        ----------
        box : tuple[int, int, int, int], optional
            (y0, x0, y1, x1) in finest cells; default the whole slide.

        Returns
        -------
        (H, W) float32
            NaN where nothing is scored.
        """
        return self.field("score", box)

    def field(self, column: str, box: Box | None = None) -> NDArray[np.float32]:
        """Return a column of the tile table blended over the cells, see `score_field`."""
        return self.blend(partial(self._values, column), box)

    def error_field(self, box: Box | None = None) -> NDArray[np.float32]:
        """Return the error maps blended over the cells, see `score_field`; NaN without error maps."""
        return self.blend(self._error_cells, box)

    def blend(self, values: Callable[[NDArray[np.int64]], NDArray[np.float32]], box: Box | None = None) -> NDArray[np.float32]:
        """Return values of tiles blended over the cells: where tiles overlap, their weighted mean.

        Parameters
        ----------
        values : callable
            Takes rows (n,) of the tile table and returns (n,) float32, one value per tile, or (n, c, c), one per cell of it;
            NaN where there is none.
        box : tuple[int, int, int, int], optional
            (y0, x0, y1, x1) in finest cells; default the whole slide.

        Returns
        -------
        (H, W) float32
            NaN outside tissue and where no tile has a value. A part is equal to the same part of the whole to the bit.
        """
        y0, x0, y1, x1 = (0, 0, *self.geometry.shape) if box is None else box
        c, step = self.geometry.cells_per_tile, self.geometry.cells_per_step
        near = np.flatnonzero((self._cells < (y1, x1)).all(axis=1) & (self._cells + c > (y0, x0)).all(axis=1))
        field = np.full((y1 - y0, x1 - x0), np.nan, np.float32)
        if not len(near):
            return field
        # Only as far as there are tiles: most of a large slide may be glass.
        inner = slice(*_overlap(self._cells[near, 0], c, y0, y1)), slice(*_overlap(self._cells[near, 1], c, x0, x1))
        part = field[inner]
        y0, x0 = y0 + inner[0].start, x0 + inner[1].start
        y1, x1 = y0 + part.shape[0], x0 + part.shape[1]
        # All places of the grid from which a tile would reach the box, with tissue or without.
        first, stop = (np.array([y0, x0]) - c) // step + 1, -(-np.array([y1, x1]) // step)
        of_tiles = values(near)
        grid = np.full((*(stop - first), *of_tiles.shape[1:]), np.nan, np.float32)
        grid[tuple((self._cells[near] // step - first).T)] = of_tiles
        top, left = np.array([y0, x0]) - first * step
        total, weight = (
            sums[top : top + y1 - y0, left : left + x1 - x0] for sums in blend_grid(grid, self.geometry.window(), step)
        )
        np.divide(total, weight, out=part, where=(weight > 0) & self.tissue_cells(y0, x0, y1, x1))
        return field

    def _error_cells(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the stored error maps of some rows, (n, c, c)."""
        cells = np.full((len(rows), *[self.geometry.cells_per_tile] * 2), np.nan, np.float32)
        for block in np.unique(rows // BLOCK_TILES).tolist():
            stored = self.error_maps(block)
            if stored is not None:
                mine = rows // BLOCK_TILES == block
                cells[mine] = stored[rows[mine] % BLOCK_TILES]
        return cells

    def _values(self, column: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows of a column; a scored block is read from disk once, for it does not change again."""
        if self.info.complete:
            if column not in self._whole:
                self._whole[column] = np.asarray(self._array(f"tiles/{column}"))
            return self._whole[column][rows]
        values = np.empty(len(rows), np.float32)
        for block in np.unique(rows // BLOCK_TILES).tolist():
            known = self._known.get((column, block))
            if known is None:
                known = np.asarray(self._array(f"tiles/{column}")[block * BLOCK_TILES : (block + 1) * BLOCK_TILES])
                if not np.isnan(known).all():
                    self._known[column, block] = known
            mine = rows // BLOCK_TILES == block
            values[mine] = known[rows[mine] % BLOCK_TILES]
        return values

    # -- thresholds

    def use_rates_for(self, valid_for: ValidFor | None) -> None:
        """Choose what p-values, thresholds and rates are valid for: tissue like that of the calibration, or a new slide.

        Parameters
        ----------
        valid_for : {"similar", "new-slide"} or None
            None changes nothing.

        Raises
        ------
        SettingsError
            If the slides of the calibration tiles are not known.
        """
        if valid_for is not None:
            self.calibration = self.calibration.made_valid_for(valid_for)

    def use_tail(self, *, used: bool = True) -> None:
        """Choose whether a fitted tail gives p-values finer than the calibration tiles support.

        Raises
        ------
        SettingsError
            If it may not be used, see `TailCheck`.
        """
        self.calibration = self.calibration.with_tail(used=used)

    @property
    def region_note(self) -> str:
        """What the rate says about regions; "" where tiles do not overlap."""
        return "" if self.info.stride_px >= self.info.tile_px else self.calibration.field_note

    @property
    def calibration_note(self) -> str:
        """What the error rates are based on, and whether they are valid for this slide."""
        stored = self.calibration.valid_for == self.info.valid_for and not self.recalibrated
        words = self.info.calibration_note if stored else self.calibration.describe(self.info.slide)
        return ". ".join(filter(None, [words, self.calibration.tail_note]))

    def flag(
        self, rate: float | None = None, min_area_um2: float | None = None, *, field: NDArray[np.float32] | None = None
    ) -> NDArray[np.uint32]:
        """Return numbered anomalous regions, (H, W) uint32 over the finest cells; 0 is not anomalous.

        Parameters
        ----------
        rate : float, optional
            False-positive rate: the share of normal tiles that would be flagged. Default: see `AnomalyMap.default_rate`.
        min_area_um2 : float, optional
            Smaller regions are left out; default a quarter of a tile.
        field : (H, W) float32, optional
            The `score_field`, if it is known already; else it is computed in bands.
        """
        return np.concatenate(list(self.flag_bands(rate, min_area_um2, field=field)))

    def flag_bands(
        self, rate: float | None = None, min_area_um2: float | None = None, *, field: Any = None
    ) -> Iterator[NDArray[np.uint32]]:
        """Yield what `flag` returns in bands of 512 rows: the map of a whole slide has tens of millions of cells."""
        threshold = self.calibration.field_threshold(self.default_rate if rate is None else rate)
        if min_area_um2 is None:
            min_area_um2 = (self.info.tile_px * self.info.mpp / 2) ** 2
        min_cells = int(min_area_um2 / (self.geometry.cell_l0 * self.info.slide_mpp) ** 2)
        height, width = self.geometry.shape

        def rows(y0: int, y1: int) -> NDArray[np.float32]:
            return self.score_field((y0, 0, y1, width)) if field is None else np.asarray(field[y0:y1])

        return flag_bands(rows, (height, width), threshold, min_cells)

    def use_discovery_rate(self, fdr: float) -> Discoveries:
        """Find the ``rate`` at which at most a share ``fdr`` of the flagged tiles is expected to be normal.

        The map then uses the p-values that this takes: extrapolated ones if no others flag anything, see `find_discoveries`.
        """
        found = find_discoveries(self.calibration, self.scores, fdr)
        self.calibration = found.calibration
        return found

    @property
    def notes(self) -> list[str]:
        """Sentences to show wherever the map is shown: those stored with it, and what its scores say as a whole.

        Maps of earlier versions store none; theirs are found in the scores.
        """
        found = self.findings(self.info.failed_tiles)
        past = self._mapped_with.drift_warning(self.scores) if self.recalibrated else None
        stored = [note for note in self.info.notes if note != past]
        return [*stored, *(note for note in found if note not in stored)]

    def findings(self, failed_tiles: int) -> list[str]:
        """Return the notes that follow from the scores: of the calibration, and of tiles that could not be read."""
        some = "1 tile" if failed_tiles == 1 else f"{failed_tiles:,} tiles"
        unread = f"{some} could not be read and were not scored" if failed_tiles else None
        return [note for note in (self.drift_warning, unread) if note is not None]

    @property
    def drift_warning(self) -> str | None:
        """What to say if the slide's scores as a whole do not lie where the calibration's do; else None."""
        return self.calibration.drift_warning(self.scores)

    @property
    def saved_rate(self) -> float | None:
        """The false-positive rate that the stored regions were flagged at, None if there are none yet."""
        rate = self._saved.get("false_positive_rate")
        return float(rate) if isinstance(rate, int | float) else None

    @property
    def _saved(self) -> dict[str, Any]:
        """The threshold of the stored regions, empty if there are none yet."""
        try:
            described = json.loads((self.path / "labels" / "anomalous" / "zarr.json").read_bytes())
            return dict(described["attributes"][ATTRIBUTE])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @property
    def saved_labels(self) -> zarr.Array[Any]:
        """The stored regions, numbered, (H, W) uint32 over the finest cells; see `maps.save_labels`."""
        return self._array("labels/anomalous/0")

    @property
    def default_rate(self) -> float:
        """The rate that is meant where none is given: the saved one, else `Calibration.default_rate`."""
        saved = self.saved_rate
        same = self._saved.get("valid_for", self.info.valid_for) == self.calibration.valid_for
        return saved if saved is not None and same else self.calibration.default_rate


def _stored_calibration(group: zarr.Group, path_of: Callable[[str], str], basis: CalibrationBasis | None) -> Calibration:
    paths = {name: path_of(name) for name in ("scores", "groups", "slides", "field_scores", "field_groups", "field_slides")}
    return Calibration.from_arrays({name: np.asarray(group[path]) for name, path in paths.items() if path in group}, basis)


def _overlap(begins: NDArray[np.int64], length: int, first: int, stop: int) -> tuple[int, int]:
    """Return which part of first … stop the stretches cover that begin there, counted from ``first``."""
    return max(int(begins.min()), first) - first, min(int(begins.max()) + length, stop) - first
