"""The findings of a map in one sentence, and its provenance, for terminal, panel, report and exports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histoad.maps import AnomalyMap
    from napari_histoad.regions import Region

_BAND_CELLS = 512


def describe_findings(source: AnomalyMap, rate: float, regions: Sequence[Region]) -> str:
    """Return a sentence with the number of flagged regions and tiles, and why the two may differ.

    Tiles are flagged by their own p-values. Regions are outlined where the anomaly map, a mean over overlapping tiles, is
    above the threshold of the same rate, if they are large enough.

    Parameters
    ----------
    source : AnomalyMap
    rate : float
        False-positive rate of the threshold.
    regions : sequence of Region
        ``measure_regions(source, rate)``.
    """
    area = sum(float(region.measurements.get("Area mm²", 0)) for region in regions)
    return _findings(source, rate, len(regions), area)


def describe_saved(source: AnomalyMap) -> str:
    """Return the sentence of `describe_findings` for the saved regions, without outlining them again."""
    labels = source.saved_labels
    cells = np.zeros(1, np.int64)
    for y in range(0, labels.shape[0], _BAND_CELLS):  # in bands, since bincount converts to int64
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
            f"no region; {share} are above the threshold, but the map, a mean over overlapping tiles, is not, "
            "or the area is too small to be outlined"
        )
    return f"{found}, outlined where the mean over overlapping tiles is above the threshold; {share} are above it"


def provenance(source: AnomalyMap, rate: float | None = None) -> dict[str, Any]:
    """Return where a map comes from, as a JSON document to store in exported files.

    Parameters
    ----------
    source : AnomalyMap
    rate : float, optional
        False-positive rate of the threshold, if one was applied.
    """
    info = source.info
    document: dict[str, Any] = {
        "slide": info.slide,
        "detector": info.detector,
        "detector_id": info.detector_id,
        "trained_on": list(info.trained_on),
        "calibration": source.calibration_note,
        "rates_valid_for": source.calibration.valid_for,
        "extrapolated_below": source.calibration.supported_rate if source.calibration.extrapolated else None,
        "rates_of_regions": source.region_note,
        "version": info.version,
        "complete": info.complete,
        "notes": source.notes,
        "unread_tiles": source.origins[source.unread_tiles].tolist(),
    }
    if rate is None:
        return document
    interval = source.calibration.rate_interval(rate)
    left_out = {} if interval is None else {"left_out_rates": interval._asdict()}
    return {**document, "false_positive_rate": rate, **left_out}
