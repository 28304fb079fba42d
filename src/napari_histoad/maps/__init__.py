"""Results: the anomaly map on disk, thresholds, measured regions, exports, figures and the report."""

from napari_histoad.maps._explanation import draw_explanation, explanation_panels
from napari_histoad.maps._exports import export_geojson, export_ome_tiff, export_png, export_table
from napari_histoad.maps._findings import describe_findings, describe_saved, provenance
from napari_histoad.maps._geometry import MapGeometry
from napari_histoad.maps._identity import digest_of_regions
from napari_histoad.maps._layout import BLOCK_TILES, MapInfo
from napari_histoad.maps._report import write_report
from napari_histoad.maps._store import AnomalyMap
from napari_histoad.maps._verdicts import UNSURE, VERDICTS, Verdict, Verdicts, propose_tiles, verdict_file
from napari_histoad.maps._writer import MapWriter

__all__ = [
    "BLOCK_TILES",
    "UNSURE",
    "VERDICTS",
    "AnomalyMap",
    "MapGeometry",
    "MapInfo",
    "MapWriter",
    "Verdict",
    "Verdicts",
    "describe_findings",
    "describe_saved",
    "digest_of_regions",
    "draw_explanation",
    "explanation_panels",
    "export_geojson",
    "export_ome_tiff",
    "export_png",
    "export_table",
    "propose_tiles",
    "provenance",
    "verdict_file",
    "write_report",
]
