"""Checks numbers given by users before any work starts."""

from __future__ import annotations

import math
from numbers import Integral, Real

from napari_histoad.errors import SettingsError

MAX_SEED = 2**32 - 1
"""Largest seed that NumPy, scikit-learn and torch all accept."""
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, MAX_SEED),
    "devices": (1, 1024),
    "max_tiles": (16, 10_000_000),
    "stride_px": (1, 1024),
    "folds": (2, 20),
    "mpp": (0.05, 20),
    "cell_um": (0.5, 100_000),
    "seconds": (0.1, 86_400),
}
_WHOLE = {"seed", "devices", "max_tiles", "stride_px", "folds"}


def check_options(**values: object) -> None:
    """Raise a SettingsError if an option is out of range; None stands for the default and passes."""
    for name, value in values.items():
        low, high = _RANGES[name]
        kind = Integral if name in _WHOLE else Real
        right = isinstance(value, kind) and not isinstance(value, bool)
        if value is not None and not (right and math.isfinite(value) and low <= value <= high):  # type: ignore[arg-type, operator]
            what = "a whole number" if name in _WHOLE else "a number"
            raise SettingsError(f"{name} is {value!r}", f"give {what} from {low:,} to {high:,}")
