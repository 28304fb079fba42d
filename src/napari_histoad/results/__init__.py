"""Findings of finished maps: measured regions, exports, figures, the report, verdicts and explanations."""

from napari_histoad.results._explanation import draw_explanation, explanation_panels
from napari_histoad.results._exports import (
    CsvExport,
    Export,
    GeoJsonExport,
    OmeTiffExport,
    ParquetExport,
    PngExport,
    exports,
    write_exports,
)
from napari_histoad.results._figures import COLORMAP, display_range, overlay, score_histogram
from napari_histoad.results._findings import describe_findings, describe_saved, provenance
from napari_histoad.results._regions import measure_regions
from napari_histoad.results._report import write_report
from napari_histoad.results._verdicts import UNSURE, VERDICTS, Verdict, Verdicts, propose_tiles, verdict_file

__all__ = [
    "COLORMAP",
    "UNSURE",
    "VERDICTS",
    "CsvExport",
    "Export",
    "GeoJsonExport",
    "OmeTiffExport",
    "ParquetExport",
    "PngExport",
    "Verdict",
    "Verdicts",
    "describe_findings",
    "describe_saved",
    "display_range",
    "draw_explanation",
    "explanation_panels",
    "exports",
    "measure_regions",
    "overlay",
    "propose_tiles",
    "provenance",
    "score_histogram",
    "verdict_file",
    "write_exports",
    "write_report",
]
