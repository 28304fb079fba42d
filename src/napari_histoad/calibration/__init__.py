"""Calibration: p-values, thresholds and error rates of scores, from the scores of held-out normal tiles.

Plain NumPy, shared by detectors, maps and evaluation.
"""

from napari_histoad.calibration._basis import CalibrationBasis, Doubt, ValidFor, check_valid_for, describe_basis
from napari_histoad.calibration._calibration import LEAST_HELD_OUT, MIN_CALIBRATION_TILES, Calibration
from napari_histoad.calibration._discoveries import discovery_rate
from napari_histoad.calibration._scores import default_rate, nothing_flagged, smallest_rate

__all__ = [
    "LEAST_HELD_OUT",
    "MIN_CALIBRATION_TILES",
    "Calibration",
    "CalibrationBasis",
    "Doubt",
    "ValidFor",
    "check_valid_for",
    "default_rate",
    "describe_basis",
    "discovery_rate",
    "nothing_flagged",
    "smallest_rate",
]
