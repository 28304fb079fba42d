"""The anomaly map on disk: an OME-Zarr 0.5 group.

::

    case.ome.zarr/
      0, 1, …           float32 anomaly map, pyramid; NaN = not scored
      labels/anomalous  what lies above the threshold
      classes/0, 1, …   float32 pyramids of class probabilities, if a classifier goes with the detector
      tiles/            origins, score, p_value, error_map, probability_0, …: one row per tile; error_map has one chunk per block,
                        or none, from a detector without
      tissue            the tissue mask
      calibration       scores of held-out normal tiles
      journal           finished blocks, one per line; gone when the map is complete

A block is a fixed set of tiles. Its chunks are written first, the journal last, each atomically, see `MapWriter`: a killed
run redoes what is not in the journal, and what it writes does not depend on where it was cut.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from pydantic import ValidationError

from napari_histoad.calibration import Calibration, discovery_rate
from napari_histoad.errors import MapError, OtherMapError, OutputError, writing
from napari_histoad.maps._blend import blend_grid
from napari_histoad.maps._chunks import PARTIAL, ChunkFiles
from napari_histoad.maps._identity import check_slide, find_slide, goes_on_with, place_of, with_slide
from napari_histoad.maps._journal import Journal
from napari_histoad.maps._layout import ATTRIBUTE, BLOCK_TILES, MapInfo, write_skeleton
from napari_histoad.system.atomic import atomic_path
from napari_histoad.tiles import TissueMask

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from numpy.typing import NDArray

    from napari_histoad.maps._chunks import WrittenChunk
    from napari_histoad.slide import Slide

__all__ = ["AnomalyMap"]


class AnomalyMap:
    """An anomaly map on disk; use `open` or `create`.

    Attributes
    ----------
    path : Path
    info : MapInfo
    geometry : MapGeometry
    calibration : Calibration
    """

    def __init__(self, path: Path, group: zarr.Group, info: MapInfo) -> None:
        self.path, self._group, self.info = path, group, info
        self._journal = Journal(path)
        self.geometry = info.geometry
        self.calibration = Calibration(np.asarray(group["calibration"]), info.calibration_basis)
        self._known: dict[tuple[str, int], NDArray[np.float32]] = {}
        self._whole: dict[str, NDArray[np.float32]] = {}

    # -- life

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

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        info: MapInfo,
        *,
        origins: NDArray[np.int64],
        tissue: TissueMask,
        calibration: Calibration,
        resume: bool = True,
        slide: Slide | None = None,
    ) -> AnomalyMap:
        """Begin a map, or go on with one of the same slide that was made with the same settings, finished or not.

        Parameters
        ----------
        path : path-like
            The folder, by convention ``<slide>.ome.zarr``.
        info : MapInfo
        origins : (N, 2) int64
            Level-0 origins of all tiles, in the order of work.
        tissue : TissueMask
        calibration : Calibration
        resume : bool
            False starts anew and deletes a map that is there.
        slide : Slide, optional
            The slide, by which the map is known again.

        Raises
        ------
        OtherMapError
            If the folder holds a map of another slide or made with other settings, or something else.
        OutputError
            If it cannot be written.
        """
        folder = Path(path)
        with writing(folder):
            exists = folder.exists()
        if exists and (resume or not (folder / "zarr.json").exists()):
            there = cls._resumable(folder, info, origins, tissue, slide)
            if there is not None:
                return there
        if slide is not None:
            info = with_slide(info, folder, slide, origins)
        with atomic_path(folder) as skeleton:
            write_skeleton(skeleton, info, origins, tissue, calibration)
        created = cls.open(folder)
        created.origins, created.tissue = np.asarray(origins, np.int64), tissue  # as they would be read
        return created

    @classmethod
    def _resumable(
        cls, folder: Path, info: MapInfo, origins: NDArray[np.int64], tissue: TissueMask, slide: Slide | None
    ) -> AnomalyMap | None:
        if folder.is_dir() and not any(folder.iterdir()):
            return None
        try:
            there = cls.open(folder)
        except MapError as err:
            raise OtherMapError(f"{err.what}: nothing is written into it", "move it away, or choose another folder") from err
        if not goes_on_with(there, info, origins, tissue, slide):
            return None
        moved = there.info if slide is None else there.info.model_copy(update=place_of(slide, folder))
        if moved != there.info and moved.fingerprint is not None:  # the slide of an older map may be another one
            with suppress(OutputError):  # a finished map that may only be read is given back all the same
                there._record(moved)
        return there

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
        """(N,) float32: share of held-out normal tiles that score at least as high, see `Calibration`."""
        return np.asarray(self._array("tiles/p_value"))

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
        return self._journal.blocks() & set(range(self.block_count))

    def write_error_maps(self, block: int, error_cells: NDArray[np.float32]) -> WrittenChunk | None:
        """Write the error maps of a block (B, c, c), see `ScoredTiles`; they count once they are put in place.

        Processes may write those of different blocks at once; `MapWriter.add` must be given their scores afterwards.

        Raises
        ------
        OutputError
            If it cannot be written.
        MapError
            If the map is not there any more.
        """
        with writing(self.path):
            return self._error_map_files.write((block, 0, 0), error_cells)

    @cached_property
    def _error_map_files(self) -> ChunkFiles:
        return ChunkFiles(self.path, self._array("tiles/error_map"))

    def error_maps(self, block: int) -> NDArray[np.float32] | None:
        """Return the error maps of a block as stored, (B, c, c) float32, NaN = not scored; None where there are none."""
        if not self._error_map_files.file(block, 0, 0).exists():
            return None
        rows = slice(block * BLOCK_TILES, min((block + 1) * BLOCK_TILES, self.info.tiles))
        return np.asarray(self._array("tiles/error_map")[rows])

    def finish(self) -> None:
        """Mark the map as complete, and remove what only an unfinished one needs.

        A map that was marked already, by a run that was killed before it had removed all, is rid of the rest.
        """
        with writing(self.path):
            if not self.info.complete:
                self._mark_complete()
            if self._journal.path.exists():
                for left in self.path.rglob(f"*{PARTIAL}"):  # by a run that was killed
                    left.unlink(missing_ok=True)
                self._journal.path.unlink()  # last: it tells that there is something to remove

    def reopen(self, blocks: Iterable[int], info: MapInfo, slide: Slide) -> None:
        """Take blocks as not done again: tiles of them that could not be read can be read now.

        Parameters
        ----------
        blocks : iterable of int
        info : MapInfo
            As it would be of a new map.
        slide : Slide
            As it is now.
        """
        with writing(self.path):
            self._journal.replace(self.finished_blocks() - set(blocks))
            found = {name: getattr(self.info, name) for name in ("slide", "version")}
            self._record(with_slide(info, self.path, slide, self.origins).model_copy(update={**found, "complete": False}))

    def _mark_complete(self) -> None:
        done = self.finished_blocks()
        if len(done) < self.block_count:
            raise MapError(f"{self.path.name}: {self.block_count - len(done)} blocks are missing", "run the same command again")
        failed = int(np.isnan(self.scores).sum())
        notes = [*self.info.notes, *self._findings(failed)]
        info = self.info.model_copy(update={"complete": True, "failed_tiles": failed, "notes": notes})
        self._record(info)

    def _record(self, info: MapInfo) -> None:
        described = self.path / "zarr.json"
        content = json.loads(described.read_bytes())
        content["attributes"][ATTRIBUTE] = info.model_dump(mode="json")
        with atomic_path(described) as partial:  # zarr would not flush it to disk
            partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
        self.info = info
        self._known.clear()
        self._whole.clear()

    # -- slide

    def check_slide(self, slide: Slide) -> None:
        """Check that a slide is the one that was mapped, by its size and some of its pixels.

        Raises
        ------
        MapError
            If it is another one.
        """
        check_slide(self, slide)

    def find_slide(self) -> Path | None:
        """Return where the slide lies: as it was seen from the map, where it was, or by name near the map; else None.

        It is not opened: `check_slide` says whether it is still the same one. An URL is returned as it is, unless it held a
        signature or a password.
        """
        return find_slide(self)

    # -- pyramid

    @property
    def levels(self) -> list[zarr.Array[Any]]:
        """The float32 pyramid, finest first."""
        return [self._array(str(i)) for i in range(len(self.geometry.level_shapes()))]

    @cached_property
    def tissue(self) -> TissueMask:
        """The tissue mask that the run used."""
        array = self._array("tissue")
        scale_y, scale_x = cast("tuple[float, float]", array.attrs["scale_yx"])
        return TissueMask(np.asarray(array), (float(scale_y), float(scale_x)))

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

    def score_field(self, box: tuple[int, int, int, int] | None = None) -> NDArray[np.float32]:
        """Return the tile scores blended over the cells: what is shown, and what thresholds are applied to.

        A cell's value is the weighted mean of the scores of the tiles that hold it, so it lives on the scale that
        the calibration speaks of.

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

    def field(self, column: str, box: tuple[int, int, int, int] | None = None) -> NDArray[np.float32]:
        """Return a column of the tile table blended over the cells, see `score_field`."""
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
        # All places of the grid from which a tile would reach the box, whether there is tissue or not.
        first, stop = (np.array([y0, x0]) - c) // step + 1, -(-np.array([y1, x1]) // step)
        grid = np.full(stop - first, np.nan, np.float32)
        grid[tuple((self._cells[near] // step - first).T)] = self._values(column, near)
        top, left = np.array([y0, x0]) - first * step
        total, weight = (
            sums[top : top + y1 - y0, left : left + x1 - x0] for sums in blend_grid(grid, self.geometry.window(), step)
        )
        seen = (weight > 0) & self.tissue_cells(y0, x0, y1, x1)
        np.divide(total, weight, out=part, where=seen)
        return field

    def _values(self, column: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows of a column; what is written is read from disk once, for it will not change again."""
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
            The `score_field`, if it is at hand; else it is computed in bands.
        """
        from napari_histoad.maps._labels import flag_bands

        return np.concatenate(list(flag_bands(self, rate, min_area_um2, field)))

    def discovery_rate(self, fdr: float) -> float:
        """Return the ``rate`` at which at most a share ``fdr`` of the flagged tiles is expected to be normal.

        See `napari_histoad.calibration.discovery_rate`.
        """
        return discovery_rate(self.p_values, fdr)

    @property
    def notes(self) -> list[str]:
        """Sentences to show wherever the map is shown: those stored with it, and what its scores say as a whole.

        Maps of earlier versions store none; theirs are found in the scores.
        """
        found = self._findings(self.info.failed_tiles)
        return [*self.info.notes, *(note for note in found if note not in self.info.notes)]

    def _findings(self, failed_tiles: int) -> list[str]:
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
        try:
            described = json.loads((self.path / "labels" / "anomalous" / "zarr.json").read_bytes())
            return float(described["attributes"][ATTRIBUTE]["false_positive_rate"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def saved_labels(self) -> zarr.Array[Any]:
        """The stored regions, numbered, (H, W) uint32 over the finest cells; see `save_labels`."""
        return self._array("labels/anomalous/0")

    @property
    def default_rate(self) -> float:
        """The rate that is meant where none is given: the saved one, else `Calibration.default_rate`."""
        saved = self.saved_rate
        return self.calibration.default_rate if saved is None else saved

    def save_labels(self, rate: float | None = None) -> None:
        """Store the numbered regions at ``rate``, default `default_rate`, as the OME-Zarr label image ``anomalous``."""
        from napari_histoad.maps._labels import write_labels

        write_labels(self, rate)

    def save_class_layers(self) -> None:
        """Store the pyramid of each class's probability, if there are classes."""
        from napari_histoad.maps._classes import write_class_layers

        if self.info.classes:
            write_class_layers(self)

    def class_levels(self, number: int) -> list[zarr.Array[Any]]:
        """Return the stored pyramid of a class's probability, finest first."""
        return [self._array(f"classes/{number}/{i}") for i in range(len(self.geometry.level_shapes()))]


def _overlap(begins: NDArray[np.int64], length: int, first: int, stop: int) -> tuple[int, int]:
    """Return which part of first … stop the stretches cover that begin there, counted from ``first``."""
    return max(int(begins.min()), first) - first, min(int(begins.max()) + length, stop) - first
