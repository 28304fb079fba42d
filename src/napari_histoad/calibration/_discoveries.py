"""The false discovery rate: which p-values to flag so that few of the flagged tiles are normal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def discovery_rate(p_values: NDArray[np.floating], fdr: float) -> float:
    """Return the largest p-value to flag such that at most a fraction ``fdr`` of the flagged tiles is expected to be normal.

    Benjamini & Hochberg 1995; the procedure stays valid for conformal p-values, although they depend on each other (Bates et
    al. 2023, arXiv:2104.08279, theorem 2).

    Parameters
    ----------
    p_values : (N,) floats
        Of all tiles of a slide; NaN are ignored.
    fdr : float
        The false discovery rate, in (0, 1).

    Returns
    -------
    float
        To be used as a false-positive rate; so small that nothing is flagged if no tile qualifies.

    Raises
    ------
    SettingsError
        If ``fdr`` is not in (0, 1).
    """
    if not 0 < fdr < 1:
        raise SettingsError(f"a false discovery rate of {fdr:g} is not between 0 and 1", "try 0.1")
    values = np.sort(np.asarray(p_values, np.float64))
    values = values[np.isfinite(values)]
    steps = fdr * np.arange(1, len(values) + 1) / max(1, len(values))
    passed = np.flatnonzero(values <= steps + 1e-9)
    return float(steps[passed[-1] if len(passed) else 0]) if len(values) else fdr
