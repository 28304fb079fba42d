"""The geometry of tiles on a slide, without pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.tiles._tissue import TissueMask

_SNAP = 0.03
_AT_ONCE = 65_536


@dataclass(frozen=True)
class TileGrid:
    """The positions of the tiles on a slide.

    Attributes
    ----------
    tile_px : int
        Side of a tile in pixels, as passed to the detector.
    stride_px : int
        Step between neighbours in the same pixels; tiles overlap if it is smaller than ``tile_px``.
    mpp : float
        µm per pixel of the tiles.
    tile_l0 : float
        Side of a tile in level-0 pixels; usually not a whole number.
    origins : (N, 2) int64
        Top left corners (y, x) in level-0 pixels.
    """

    tile_px: int
    stride_px: int
    mpp: float
    tile_l0: float
    origins: NDArray[np.int64]

    @classmethod
    def cover(
        cls,
        shape: tuple[int, int],
        slide_mpp: float,
        *,
        tile_px: int,
        mpp: float,
        stride_px: int | None = None,
    ) -> TileGrid:
        """Return the grid that covers a whole slide without gaps, in raster order.

        Parameters
        ----------
        shape : tuple[int, int]
            (height, width) of level 0.
        slide_mpp : float
            µm per level-0 pixel.
        tile_px : int
            Side of a tile in pixels.
        mpp : float
            µm per tile pixel; within 3% of the slide's own mpp, that is used, so that tiles need no resampling.
        stride_px : int, optional
            Default: ``tile_px``, no overlap.

        Raises
        ------
        SettingsError
            If the stride is not in 1 to ``tile_px``, or the slide is coarser than the requested mpp.
        """
        stride_px = tile_px if stride_px is None else stride_px
        if not 1 <= stride_px <= tile_px:
            msg = f"a stride of {stride_px} px leaves gaps between tiles of {tile_px} px"
            raise SettingsError(msg, f"choose 1 to {tile_px}")
        if mpp < slide_mpp * (1 - _SNAP):
            msg = f"tiles of {mpp:g} µm per pixel are finer than the slide, which has {slide_mpp:g}"
            raise SettingsError(msg, f"use a detector trained at {slide_mpp:g} or coarser, or train one with --mpp {slide_mpp:g}")
        if abs(mpp / slide_mpp - 1) <= _SNAP:
            mpp = slide_mpp
        ratio = mpp / slide_mpp
        # Whole level-0 steps, rounded down: neighbours may overlap by a pixel but never leave a gap.
        step = max(1, math.floor(stride_px * ratio))
        tile_l0 = tile_px * ratio
        axes = [np.arange(max(1, math.ceil((n - tile_l0) / step) + 1), dtype=np.int64) * step for n in shape]
        origins = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        return cls(tile_px, stride_px, mpp, tile_l0, origins)

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(N, 4) float64: (y0, x0, y1, x1) of every tile in level-0 pixels."""
        return np.concatenate([self.origins, self.origins + self.tile_l0], axis=1)

    def subset(self, keep: NDArray[np.bool_] | NDArray[np.int64] | slice) -> TileGrid:
        """Return a grid of the tiles selected by ``keep`` (mask, indices or slice)."""
        return replace(self, origins=self.origins[keep])

    def on_tissue(self, tissue: TissueMask, min_fraction: float = 0.1) -> TileGrid:
        """Return a grid of the tiles with a tissue fraction of at least ``min_fraction`` and above 0."""
        keep = np.empty(len(self), bool)
        for first in range(0, len(self), _AT_ONCE):  # a huge slide has a million tiles, few of them on tissue
            some = slice(first, first + _AT_ONCE)
            fraction = tissue.fraction(self.subset(some).boxes)
            keep[some] = (fraction >= min_fraction) & (fraction > 0)
        return self.subset(keep)
