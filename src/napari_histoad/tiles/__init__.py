"""Tiles: which parts of a slide are analysed, and their pixels.

`find_tissue` finds the tissue, `TileGrid` places tiles on it, `TileLoader` decodes them in the background, and `TileSet` holds
training tiles in memory.
"""

from napari_histoad.tiles._artefacts import (
    ARTEFACT_KINDS,
    ARTEFACTS,
    ArtefactMask,
    artefacts_note,
    check_artefacts,
    find_artefacts,
    kinds_of,
)
from napari_histoad.tiles._files import (
    NormalTiles,
    TileFile,
    check_tile_files,
    list_normal_files,
    list_tile_files,
    read_tile_files,
    tile_side,
)
from napari_histoad.tiles._grid import TileGrid
from napari_histoad.tiles._loader import TileBatch, TileLoader, UndecodedBatch
from napari_histoad.tiles._near_duplicates import near_duplicates
from napari_histoad.tiles._sample import sample_tiles, sample_tiles_job, training_grid
from napari_histoad.tiles._stain import Stain, StainMethod
from napari_histoad.tiles._tile_set import TilePlace, TileSet, read_places, write_places
from napari_histoad.tiles._tissue import TISSUE_FROM, TissueMask, check_tissue_from, find_tissue, tissue_mask

__all__ = [
    "ARTEFACTS",
    "ARTEFACT_KINDS",
    "TISSUE_FROM",
    "ArtefactMask",
    "NormalTiles",
    "Stain",
    "StainMethod",
    "TileBatch",
    "TileFile",
    "TileGrid",
    "TileLoader",
    "TilePlace",
    "TileSet",
    "TissueMask",
    "UndecodedBatch",
    "artefacts_note",
    "check_artefacts",
    "check_tile_files",
    "check_tissue_from",
    "find_artefacts",
    "find_tissue",
    "kinds_of",
    "list_normal_files",
    "list_tile_files",
    "near_duplicates",
    "read_places",
    "read_tile_files",
    "sample_tiles",
    "sample_tiles_job",
    "tile_side",
    "tissue_mask",
    "training_grid",
    "write_places",
]
