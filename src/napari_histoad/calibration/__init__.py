"""Calibration: p-values, thresholds and error rates of scores, from the scores of held-out normal tiles.

Plain NumPy, shared by detectors, maps and evaluation.
"""

from napari_histoad.calibration._basis import CalibrationBasis, Doubt, ValidFor, check_valid_for, describe_basis
from napari_histoad.calibration._calibration import LEAST_HELD_OUT, MIN_CALIBRATION_TILES, Calibration
from napari_histoad.calibration._discoveries import Discoveries, discovery_rate, find_discoveries
from napari_histoad.calibration._scores import default_rate, nothing_flagged, smallest_rate

__all__ = [
    "LEAST_HELD_OUT",
    "MIN_CALIBRATION_TILES",
    "Calibration",
    "CalibrationBasis",
    "Discoveries",
    "Doubt",
    "ValidFor",
    "check_valid_for",
    "default_rate",
    "describe_basis",
    "discovery_rate",
    "find_discoveries",
    "nothing_flagged",
    "smallest_rate",
]
