"""The false discovery rate: which p-values to flag so that few of the flagged tiles are normal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.calibration._calibration import Calibration

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Discoveries:
    """The tiles of a slide that are flagged at a false discovery rate, and whether there were enough p-values to flag any.

    Attributes
    ----------
    fdr : float
        The false discovery rate.
    rate : float
        The largest p-value that is flagged; so small that nothing is if no tile qualifies.
    flagged : int
        Number of flagged tiles.
    tiles : int
        Number of scored tiles.
    smallest : float
        The smallest p-value that a tile can have.
    reached : int
        Number of tiles that have it.
    calibration : Calibration
        With a tail where the false discovery rate needs it.
    refused : str
        Why no tail was used, if one was needed; else "".
    """

    fdr: float
    rate: float
    flagged: int
    tiles: int
    smallest: float
    reached: int
    calibration: Calibration
    refused: str = ""

    @property
    def needed(self) -> int:
        """Number of tiles that must have the smallest p-value for any to be flagged: nothing, or at least these, is flagged."""
        return int(np.ceil(self.tiles * self.smallest / self.fdr * (1 - _ROUNDING)))

    @property
    def sentence(self) -> str:
        """The power of the false discovery rate here, and what to do if it has none, as a sentence without a full stop."""
        words = (
            f"A false discovery rate of {100 * self.fdr:.3g}% flags nothing unless {self.needed:,} of {self.tiles:,} tiles reach "
            f"the smallest p-value, {self.calibration.show_p(self.smallest)}, at once; {self.reached:,} do"
        )
        if self.flagged:
            return words
        finer = f" (finer p-values cannot be extrapolated: {self.refused})" if self.refused else ""
        return f"{words}. It has no power to find fewer{finer}; set a false-positive rate, or calibrate on more normal tissue"


def find_discoveries(calibration: Calibration, scores: NDArray[np.floating], fdr: float) -> Discoveries:
    """Find the tiles of a slide to flag at a false discovery rate, with extrapolated p-values only if no others qualify.

    Parameters
    ----------
    calibration : Calibration
    scores : (N,) floats
        Of all tiles of the slide; NaN are ignored.
    fdr : float
        In (0, 1).

    Raises
    ------
    SettingsError
        If ``fdr`` is not in (0, 1).
    """
    plain = _at(calibration.with_tail(used=False), scores, fdr)
    if plain.flagged or not plain.tiles:
        return plain
    if refused := plain.calibration.tail_check.problem:
        return _at(plain.calibration, scores, fdr, refused)
    return _at(plain.calibration.with_tail(), scores, fdr)


def _at(calibration: Calibration, scores: NDArray[np.floating], fdr: float, refused: str = "") -> Discoveries:
    p_values, smallest = calibration.p_value(scores), calibration.smallest_rate
    rate, reached = discovery_rate(p_values, fdr), int((p_values <= smallest * (1 + 1e-6)).sum())
    flagged, tiles = int((p_values <= rate).sum()), int(np.isfinite(p_values).sum())
    return Discoveries(fdr, rate, flagged, tiles, smallest, reached, calibration, refused)


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
    passed = np.flatnonzero(values <= steps + _ROUNDING)
    if not len(values):
        return fdr
    return float(max(steps[passed[-1]], values[passed[-1]])) if len(passed) else float(steps[0])
