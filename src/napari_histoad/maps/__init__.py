"""The anomaly map on disk: tile scores, pyramids, labels, and the writer that fills them."""

from napari_histoad.maps._anomaly_map import AnomalyMap
from napari_histoad.maps._blend import blend_grid
from napari_histoad.maps._geometry import MapGeometry
from napari_histoad.maps._layout import BLOCK_TILES, MapInfo
from napari_histoad.maps._lifecycle import create_map, finish_job, reopen_blocks
from napari_histoad.maps._pyramids import save_labels
from napari_histoad.maps._recalibrate import recalibrate_map
from napari_histoad.maps._scored_tiles import ScoredTiles
from napari_histoad.maps._slide import digest_of_regions
from napari_histoad.maps._writer import MapWriter, write_error_maps

__all__ = [
    "BLOCK_TILES",
    "AnomalyMap",
    "MapGeometry",
    "MapInfo",
    "MapWriter",
    "ScoredTiles",
    "blend_grid",
    "create_map",
    "digest_of_regions",
    "finish_job",
    "recalibrate_map",
    "reopen_blocks",
    "save_labels",
    "write_error_maps",
]
