"""Figures: the anomaly map over its slide, and the histogram of tile scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from napari_histoad.results._regions import measure_regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide

COLORMAP = "inferno"
_OPACITY = 0.75


def display_range(source: AnomalyMap) -> tuple[float, float]:
    """Return the scores to show as darkest and brightest: the median of normal tiles, and well above the highest of them."""
    low, high = np.quantile(source.calibration.scores, (0.5, 0.99))
    seen = source.scores[~np.isnan(source.scores)]
    top = float(np.quantile(seen, 0.995)) if len(seen) else float(high)
    return float(low), float(max(high + (high - low), top, low + 1e-9))


def overlay(
    source: AnomalyMap,
    slide: Slide,
    *,
    max_px: int = 2000,
    rate: float | None = None,
    truth: Sequence[Region] = (),
    numbered: int = 0,
) -> NDArray[np.uint8]:
    """Return a picture of the slide with the anomaly map in colour, flagged regions in blue and known anomalies in green.

    Parameters
    ----------
    source : AnomalyMap
    slide : Slide
        The slide that was mapped.
    max_px : int
        Longer side of the picture.
    rate : float, optional
        False-positive rate that flags regions; default: `AnomalyMap.default_rate`.
    truth : sequence of Region
        Known anomalies, drawn for comparison.
    numbered : int
        How many flagged regions are numbered, highest mean score first.

    Returns
    -------
    (h, w, 3) uint8

    Raises
    ------
    MapError
        If the map is of another slide.
    """
    source.check_slide(slide)
    base = slide.thumbnail(max_px).astype(np.float32)
    h, w = base.shape[:2]
    heat = _sample(source, (h, w))
    low, high = display_range(source)
    level = np.clip((heat - low) / (high - low), 0, 1)
    colour = mpl.colormaps[COLORMAP](np.nan_to_num(level))[..., :3].astype(np.float32) * 255
    # Opacity rises with the score, so that normal tissue keeps its own colours.
    alpha = np.where(np.isnan(level), 0, _OPACITY * np.clip(2 * level, 0, 1))[..., None]
    picture = Image.fromarray((base * (1 - alpha) + colour * alpha).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    scale = h / slide.shape[0]
    width = max(1, round(max(h, w) / 700))
    flagged = measure_regions(source, rate)
    for regions, ink in ((flagged, (0, 229, 255)), (truth, (57, 255, 20))):
        for region in regions:
            for polygon in getattr(region.geometry, "geoms", [region.geometry]):
                for ring in (polygon.exterior, *polygon.interiors):
                    pen.line([(x * scale, y * scale) for y, x in ring.coords], fill=ink, width=width)
    font = ImageFont.load_default(max(12, round(max(h, w) / 60)))
    for number, region in enumerate(flagged[:numbered], start=1):
        y, x = region.geometry.bounds[0] * scale, region.geometry.bounds[3] * scale
        pen.text((x, y), str(number), fill="white", font=font, stroke_width=2, stroke_fill="black")
    return np.asarray(picture)


def _sample(source: AnomalyMap, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the anomaly map resampled to the pixels of a picture of the whole slide."""
    values = source.score_field()
    axes = [
        (np.arange(n) + 0.5) * full / n / source.geometry.cell_l0 for n, full in zip(shape, source.info.slide_shape, strict=True)
    ]
    rows, columns = (np.minimum(a.astype(int), n - 1) for a, n in zip(axes, values.shape, strict=True))
    return values[np.ix_(rows, columns)]


def score_histogram(source: AnomalyMap, rate: float) -> Figure:
    """Return a histogram of the tile scores of the slide and of held-out normal tiles, with the threshold."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    scores = source.scores[~np.isnan(source.scores)]
    normals = source.calibration.scores
    edges = np.linspace(min(scores.min(), normals.min()), np.quantile(np.r_[scores, normals], 0.998), 60).tolist()
    axes.hist(normals, edges, density=True, color="#0072B2", alpha=0.55, label=f"held-out normal tissue ({len(normals):,} tiles)")
    axes.hist(scores, edges, density=True, histtype="step", color="#D55E00", lw=1.6, label=f"this slide ({len(scores):,} tiles)")
    threshold = source.calibration.threshold(rate)
    if np.isfinite(threshold):
        whom = "a new slide" if source.calibration.valid_for == "new-slide" else "similar tissue"
        axes.axvline(threshold, color="black", ls="--", lw=1, label=f"threshold at {rate:.1%} false positives on {whom}")
    axes.set(xlabel="tile score", ylabel="density", yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure
