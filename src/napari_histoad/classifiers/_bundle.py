"""Classifier files: together with a detector if the classifier has one, otherwise alone. Never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_histoad import __version__
from napari_histoad.classifiers._base import Classifier, ClassifierSettings
from napari_histoad.detectors import (
    CLASSIFIER_PREFIX,
    detector_parts,
    has_detector,
    load_detector,
    read_metadata,
    write_bundle,
)
from napari_histoad.errors import BundleError, HistoadError, first_error

if TYPE_CHECKING:
    from os import PathLike

_KEY = "napari_histoad_classifier"


class ClassifierHeader(BaseModel):
    """Metadata of a classifier in a file."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    settings: ClassifierSettings
    trained_on: list[str] = []  # names of slides or tile sets
    report: dict[str, Any] = {}  # cross-validated metrics by name
    version: str  # of the package that wrote the file


def save_classifier(classifier: Classifier, path: str | PathLike[str], report: dict[str, Any] | None = None) -> Path:
    """Write a classifier, and its detector if it has one, to one file, atomically, and return its path.

    `load_detector` reads the detector of that file, `load_classifier` both.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    tensors, metadata = detector_parts(classifier.detector) if classifier.detector is not None else ({}, {})
    tensors |= {f"{CLASSIFIER_PREFIX}{name}": value.contiguous() for name, value in classifier.saved_state().items()}
    header = ClassifierHeader(
        settings=classifier.settings, trained_on=list(classifier.trained_on), report=report or {}, version=__version__
    )
    return write_bundle(Path(path), tensors, {**metadata, _KEY: json.dumps(header.model_dump(mode="json"))})


def has_classifier(path: str | PathLike[str]) -> bool:
    """Return whether a file contains a classifier.

    Raises
    ------
    BundleError
        If the file is not a safetensors file.
    """
    return _KEY in read_metadata(Path(path))


def read_classifier_header(path: str | PathLike[str]) -> ClassifierHeader:
    """Return the metadata of a classifier in a file without reading its tensors.

    Raises
    ------
    BundleError
        If the file contains no classifier.
    """
    file = Path(path)
    metadata = read_metadata(file)
    if _KEY not in metadata:
        raise BundleError(f"{file.name} contains no classifier", "give a file written by histoad classify train")
    try:
        return ClassifierHeader.model_validate_json(metadata[_KEY])
    except ValidationError as err:
        fault = first_error(err)
        raise BundleError(f"{file.name}: its classifier's header is not valid ({fault})", "update napari-histoad") from err


def load_classifier(path: str | PathLike[str]) -> Classifier:
    """Return a trained classifier with its detector, ready on the CPU.

    Raises
    ------
    BundleError
        If the file contains none, is damaged, or does not match this version.
    """
    file = Path(path)
    header = read_classifier_header(file)
    detector = load_detector(file) if has_detector(file) else None
    try:
        classifier = Classifier(header.settings, detector)
        tensors = safetensors.torch.load_file(file)
        own = {name: value for name, value in tensors.items() if name.startswith(CLASSIFIER_PREFIX)}
        classifier.load_saved_state({name.removeprefix(CLASSIFIER_PREFIX): value for name, value in own.items()})
    except HistoadError as err:
        raise BundleError(f"{file.name}: {err.what}", err.remedy) from err
    except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as err:
        reason = str(err).splitlines()[0][:160]
        raise BundleError(f"{file.name}: its weights do not match its header ({reason})", "train it again") from err
    classifier.trained_on = tuple(header.trained_on)
    return classifier.eval()
