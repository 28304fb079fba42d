"""The anomaly map on disk: tile scores, pyramids, labels, and the writer that fills them."""

from napari_histoad.maps._geometry import MapGeometry
from napari_histoad.maps._identity import digest_of_regions
from napari_histoad.maps._layout import BLOCK_TILES, MapInfo
from napari_histoad.maps._scored import ScoredTiles
from napari_histoad.maps._store import AnomalyMap
from napari_histoad.maps._writer import MapWriter

__all__ = ["BLOCK_TILES", "AnomalyMap", "MapGeometry", "MapInfo", "MapWriter", "ScoredTiles", "digest_of_regions"]
