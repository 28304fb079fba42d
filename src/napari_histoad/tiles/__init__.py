"""Where: which tiles of a slide are looked at, and their pixels.

`find_tissue` says what is tissue, `TileGrid` says where the tiles lie, `TileLoader` decodes them ahead of use,
`TileSet` holds training tiles in memory.
"""

from napari_histoad.tiles._grid import TileGrid
from napari_histoad.tiles._loader import TileBatch, TileLoader
from napari_histoad.tiles._set import TileSet, read_tile_files, sample_tiles
from napari_histoad.tiles._tissue import TissueMask, find_tissue

__all__ = [
    "TileBatch",
    "TileGrid",
    "TileLoader",
    "TileSet",
    "TissueMask",
    "find_tissue",
    "read_tile_files",
    "sample_tiles",
]
