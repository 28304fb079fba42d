"""Write huge slides from tiles that are already encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import tifffile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

TILE = 256


def encode(tile: NDArray[np.uint8]) -> bytes:
    """Return a tile as JPEG."""
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=80, outcolorspace="YCBCR"))


def write_pyramid(path: Path, side: int, tiles: Callable[[int, int], Iterable[bytes]]) -> Path:
    """Write a square JPEG TIFF of 0.5 µm per pixel; each level has a quarter of the side of the level above.

    Parameters
    ----------
    tiles : callable
        Takes the number of a level and its width in tiles, and returns its tiles in raster order.
    """
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        number, level = 0, side
        while True:
            tif.write(
                iter(tiles(number, -(-level // TILE))),
                shape=(level, level, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                compression="jpeg",
                subfiletype=int(level < side),
                resolution=(2e4 * level / side, 2e4 * level / side),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            if level <= 1024:
                return path
            number, level = number + 1, -(-level // 4)
