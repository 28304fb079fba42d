"""Classifiers of tiles on image, reconstruction and error map, their ensembles, and maps of relevance."""

from napari_histoad.classifiers._base import CHANNELS, Classifier, ClassifierSettings, Input, class_weights, computes_error_map
from napari_histoad.classifiers._bundle import (
    ClassifierHeader,
    has_classifier,
    load_classifier,
    read_classifier_header,
    save_classifier,
)
from napari_histoad.classifiers._explain import relevance
from napari_histoad.classifiers._model import ClassifyingDetector, classes_of, load_model, save_model
from napari_histoad.classifiers._networks import NETWORKS, build_network

__all__ = [
    "CHANNELS",
    "NETWORKS",
    "Classifier",
    "ClassifierHeader",
    "ClassifierSettings",
    "ClassifyingDetector",
    "Input",
    "build_network",
    "class_weights",
    "classes_of",
    "computes_error_map",
    "has_classifier",
    "load_classifier",
    "load_model",
    "read_classifier_header",
    "relevance",
    "save_classifier",
    "save_model",
]
