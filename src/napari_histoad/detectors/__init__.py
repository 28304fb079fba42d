"""How abnormal: one file per method, one registry, one bundle format, calibration."""

from napari_histoad.detectors._backbone import describe_backbone, fetch_weights
from napari_histoad.detectors._base import BackboneRecord, Detector, DetectorSettings, TileScores
from napari_histoad.detectors._bundle import BundleHeader, load_detector, read_header, save_detector
from napari_histoad.detectors._features import FeatureDetector, features_of
from napari_histoad.detectors._onnx import export_onnx
from napari_histoad.detectors._registry import (
    DetectorDescription,
    create_detector,
    describe_detectors,
    detector_class,
    detector_names,
)
from napari_histoad.detectors._starter import starter_path
from napari_histoad.detectors._weights import known_weights, register_weights

__all__ = [
    "BackboneRecord",
    "BundleHeader",
    "Detector",
    "DetectorDescription",
    "DetectorSettings",
    "FeatureDetector",
    "TileScores",
    "create_detector",
    "describe_backbone",
    "describe_detectors",
    "detector_class",
    "detector_names",
    "export_onnx",
    "features_of",
    "fetch_weights",
    "known_weights",
    "load_detector",
    "read_header",
    "register_weights",
    "save_detector",
    "starter_path",
]
