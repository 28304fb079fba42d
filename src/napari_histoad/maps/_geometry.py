"""Geometry of a map: how its cells relate to tiles and to level-0 pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.tiles import TileGrid


@dataclass(frozen=True)
class MapGeometry:
    """The cells of a map: a grid finer than the tiles, on whose lines every tile begins.

    Attributes
    ----------
    shape : tuple[int, int]
        Cells down and across.
    slide_shape : tuple[int, int]
        Level-0 pixels down and across.
    cell_l0 : float
        Side of a cell in level-0 pixels; cell i covers [i, i + 1) · ``cell_l0``.
    cells_per_tile : int
        Cells down and across a tile.
    cells_per_step : int
        Cells between neighbouring tiles.
    step_l0 : int
        Level-0 pixels between neighbouring tiles.
    """

    shape: tuple[int, int]
    slide_shape: tuple[int, int]
    cell_l0: float
    cells_per_tile: int
    cells_per_step: int
    step_l0: int

    @classmethod
    def of(cls, grid: TileGrid, slide_shape: tuple[int, int], cell_um: float) -> MapGeometry:
        """Return the geometry with cells as near to ``cell_um`` as the stride allows."""
        # A step must be a whole number of cells, so a tile has a multiple of this number of cells.
        unit = grid.tile_px // math.gcd(grid.tile_px, grid.stride_px)
        wanted = grid.tile_px * grid.mpp / cell_um
        per_tile = unit * max(1, min(round(wanted / unit), grid.tile_px // unit))
        per_step = per_tile * grid.stride_px // grid.tile_px
        step_l0 = max(1, math.floor(grid.tile_l0 * grid.stride_px / grid.tile_px))
        cell_l0 = step_l0 / per_step
        shape = (math.ceil(slide_shape[0] / cell_l0), math.ceil(slide_shape[1] / cell_l0))
        return cls(shape, slide_shape, cell_l0, per_tile, per_step, step_l0)

    def tile_cells(self, origins: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first cell (row, column) of tiles by their level-0 origins, (N, 2)."""
        return origins // self.step_l0 * self.cells_per_step

    def scale(self, level: int) -> float:
        """Return level-0 pixels per cell of a pyramid level."""
        return float(self.cell_l0 * 2**level)

    def translate(self, level: int) -> float:
        """Return the centre of cell 0 in level-0 pixels, if the centre of level-0 pixel 0 is at 0."""
        return (self.scale(level) - 1) / 2

    def level_shapes(self, smallest: int = 256) -> list[tuple[int, int]]:
        """Return the shape of each pyramid level, finest first, down to ``smallest`` cells."""
        shapes = [self.shape]
        while max(shapes[-1]) > smallest:
            shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
        return shapes

    def window(self) -> NDArray[np.float32]:
        """Return the weight of each cell of a tile, (c, c): highest in the middle, never 0, so overlaps blend smoothly."""
        ramp = np.sin(np.pi * (np.arange(self.cells_per_tile) + 0.5) / self.cells_per_tile) ** 2 + 0.02
        return np.outer(ramp, ramp).astype(np.float32)
