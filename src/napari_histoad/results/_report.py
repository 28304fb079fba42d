"""The report: one HTML file with all pictures inside, which loads nothing from the internet."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from napari_histoad import __version__
from napari_histoad.results._figures import overlay, score_histogram
from napari_histoad.results._findings import describe_findings
from napari_histoad.results._regions import measure_regions
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide

_LISTED = 25
"""Maximum number of regions in the table of a map."""


def write_report(
    entries: Sequence[tuple[AnomalyMap, Slide | None]],
    path: str | PathLike[str],
    *,
    rate: float | None = None,
    truth: Mapping[str, Sequence[Region]] | None = None,
    evaluations: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    on_error: Callable[[AnomalyMap, Exception], object] | None = None,
) -> None:
    """Write an HTML report on one or more maps.

    Parameters
    ----------
    entries : sequence of (AnomalyMap, Slide or None)
        The maps in the order of the report. A map without its slide gets no overlay picture.
    path : path-like
        The .html file.
    rate : float, optional
        False-positive rate of the threshold; default: that of each map, see `AnomalyMap.default_rate`.
    truth : mapping of slide name to regions, optional
        Known anomalies, drawn on the overlay.
    evaluations : mapping of slide name to rows (name, value), optional
        Metrics, shown as a table.
    on_error : callable, optional
        Called with a map that cannot be reported and its error, while the others are. Without it, the error is raised.

    Raises
    ------
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> result = AnomalyMap.open("maps/case.ome.zarr")  # doctest: +SKIP
    >>> write_report([(result, open_slide("case.svs"))], "report.html")  # doctest: +SKIP
    """
    slides = []
    for source, slide in entries:
        known, rows = (truth or {}).get(source.info.slide, ()), (evaluations or {}).get(source.info.slide, ())
        try:
            slides.append(_describe(source, slide, rate, known, rows))
        except Exception as err:
            if on_error is None:
                raise
            on_error(source, err)
    environment = Environment(loader=PackageLoader("napari_histoad.results", "."), autoescape=select_autoescape(["html"]))
    page = environment.get_template("report.html").render(slides=slides, version=__version__)
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _describe(
    source: AnomalyMap,
    slide: Slide | None,
    given_rate: float | None,
    truth: Sequence[Region],
    evaluation: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    info = source.info
    rate = source.default_rate if given_rate is None else given_rate
    p_values = source.p_values[~np.isnan(source.p_values)]
    regions = measure_regions(source, rate)
    nominal = f"{rate:.1%} {source.calibration.whom(info.slide)}"
    facts = [
        ("Threshold", f"Nominal false-positive rate {nominal}. {source.calibration.explain_rate(rate)}"),
        ("Detector", f"{info.detector}, trained on {', '.join(info.trained_on) or 'unnamed tiles'}"),
        ("Calibration", source.calibration_note),
        *((("Regions", source.region_note),) if source.region_note else ()),
        ("Tiles", f"{len(p_values):,} tiles of {info.tile_px} px at {info.mpp:.3g} µm/px, one every {info.stride_px} px"),
        ("Tissue", f"{source.tissue.area_mm2(info.slide_mpp):.2f} mm²"),
        ("Flagged", describe_findings(source, rate, regions)),
        *(("Note", note) for note in source.notes),
    ]
    if not info.complete:
        facts.append(("State", "Unfinished: run the same command again to resume the map"))
    histogram = io.BytesIO()
    if len(p_values):
        score_histogram(source, rate).savefig(histogram, format="png", dpi=110)
    return {
        "name": info.slide,
        "facts": facts,
        "evaluation": list(evaluation),
        "overlay": _inline(_jpeg(overlay(source, slide, rate=rate, truth=truth, max_px=1400, numbered=_LISTED)), "jpeg")
        if slide
        else "",
        "histogram": _inline(histogram.getvalue(), "png") if len(p_values) else "",
        "has_truth": bool(truth),
        "regions": [
            {
                "area": f"{r.measurements['Area mm²']:.3f}",
                "score": f"{r.measurements.get('Mean score', float('nan')):.4g}",
                "p": source.calibration.show_p(float(r.measurements.get("Min p-value", float("nan")))),
                "place": "{:.0f}, {:.0f}".format(*r.geometry.representative_point().coords[0]),
            }
            for r in regions[:_LISTED]
        ],
        "more": max(0, len(regions) - _LISTED),
    }


def _jpeg(picture: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
