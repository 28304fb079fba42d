"""Anomaly detectors: one file per method, a registry of their names, and the format of detector files."""

from napari_histoad.detectors._base import Detector, DetectorSettings, EncoderRecord, TileScores
from napari_histoad.detectors._bundle import (
    CLASSIFIER_PREFIX,
    BundleHeader,
    detector_parts,
    fingerprint,
    has_detector,
    load_detector,
    read_header,
    read_metadata,
    save_detector,
    write_bundle,
)
from napari_histoad.detectors._encoders import create_timm, describe_encoder, fetch_weights
from napari_histoad.detectors._features import FeatureDetector, FeatureModel, features_of, to_pixels
from napari_histoad.detectors._known_encoders import KNOWN_ENCODERS, KnownEncoder, known_encoder
from napari_histoad.detectors._onnx import export_onnx
from napari_histoad.detectors._registry import (
    DetectorDescription,
    create_detector,
    describe_detectors,
    detector_class,
    detector_names,
)
from napari_histoad.detectors._starter import starter_path
from napari_histoad.detectors._timm import import_timm
from napari_histoad.detectors._weights import known_weights, register_weights

__all__ = [
    "CLASSIFIER_PREFIX",
    "KNOWN_ENCODERS",
    "BundleHeader",
    "Detector",
    "DetectorDescription",
    "DetectorSettings",
    "EncoderRecord",
    "FeatureDetector",
    "FeatureModel",
    "KnownEncoder",
    "TileScores",
    "create_detector",
    "create_timm",
    "describe_detectors",
    "describe_encoder",
    "detector_class",
    "detector_names",
    "detector_parts",
    "export_onnx",
    "features_of",
    "fetch_weights",
    "fingerprint",
    "has_detector",
    "import_timm",
    "known_encoder",
    "known_weights",
    "load_detector",
    "read_header",
    "read_metadata",
    "register_weights",
    "save_detector",
    "starter_path",
    "to_pixels",
    "write_bundle",
]
