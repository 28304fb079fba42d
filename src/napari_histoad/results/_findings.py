"""What a map found at a threshold, in one sentence that terminal, panel and report share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histoad.maps._store import AnomalyMap
    from napari_histoad.regions import Region

__all__ = ["describe_findings", "describe_saved", "provenance"]

_BAND_CELLS = 512


def describe_findings(source: AnomalyMap, rate: float, regions: Sequence[Region]) -> str:
    """Return how many regions and tiles are flagged, and why the two may differ.

    Tiles are counted by their own p-values. Regions are outlined where the blended map, a mean over the tiles that overlap,
    lies above the threshold of the same rate, if they are large enough.

    Parameters
    ----------
    source : AnomalyMap
    rate : float
        False-positive rate.
    regions : sequence of Region
        ``source.regions(rate)``.
    """
    area = sum(float(region.measurements.get("Area mm²", 0)) for region in regions)
    return _findings(source, rate, len(regions), area)


def describe_saved(source: AnomalyMap) -> str:
    """Return the same of the stored regions, without outlining them."""
    labels = source.saved_labels
    cells = np.zeros(1, np.int64)
    for y in range(0, labels.shape[0], _BAND_CELLS):  # as integers of eight bytes a whole slide's would be large
        counts = np.bincount(np.asarray(labels[y : y + _BAND_CELLS]).ravel(), minlength=len(cells))
        cells = counts + np.pad(cells, (0, len(counts) - len(cells)))
    area = float(cells[1:].sum()) * (source.geometry.cell_l0 * source.info.slide_mpp) ** 2 / 1e6
    return _findings(source, source.default_rate, int(np.count_nonzero(cells[1:])), area)


def _findings(source: AnomalyMap, rate: float, regions: int, area: float) -> str:
    p_values = source.p_values
    scored = int((~np.isnan(p_values)).sum())
    flagged = int((p_values <= rate).sum())
    found = f"1 region, {area:.2f} mm²" if regions == 1 else f"{regions:,} regions, {area:.2f} mm²"
    share = f"{flagged:,} of {scored:,} tiles ({flagged / scored:.1%})" if scored else "no tile was scored"
    if not scored:
        return f"{found}; {share}"
    if flagged and not regions:
        return (
            f"no region; {share} score above the threshold by themselves, but among neighbours that do not: "
            "the map, a mean over overlapping tiles, stays below it, or the area is too small to be outlined"
        )
    return f"{found}, outlined where the mean of overlapping tiles is above the threshold; {share} are by themselves"


def provenance(source: AnomalyMap, rate: float | None = None) -> dict[str, Any]:
    """Return what to say of a map in files made of it, ready for JSON.

    Parameters
    ----------
    source : AnomalyMap
    rate : float, optional
        False-positive rate of the threshold, where one was applied.
    """
    info = source.info
    said: dict[str, Any] = {
        "slide": info.slide,
        "detector": info.detector,
        "detector_id": info.detector_id,
        "trained_on": list(info.trained_on),
        "calibration": info.calibration_note,
        "version": info.version,
        "complete": info.complete,
        "notes": source.notes,
        "unread_tiles": source.origins[source.unread_tiles].tolist(),
    }
    return said if rate is None else {**said, "false_positive_rate": rate}
