"""Detector files: one ``.safetensors`` file whose header contains a validated JSON document. Never pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_histoad import __version__
from napari_histoad.calibration import Calibration, CalibrationBasis
from napari_histoad.detectors._base import EncoderRecord  # noqa: TC001 - pydantic reads it
from napari_histoad.detectors._registry import create_detector, detector_class
from napari_histoad.detectors._weights import known_weights
from napari_histoad.errors import BundleError, HistoadError, first_error
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from os import PathLike

    from torch import Tensor

    from napari_histoad.detectors._base import Detector

__all__ = ["BundleHeader", "load_detector", "read_header", "save_detector"]

_KEY = "napari_histoad"
_CALIBRATION = "calibration."
"""How the names of the calibration's arrays begin: scores, and their groups and slides; files of earlier versions hold scores."""
CLASSIFIER_PREFIX = "classifier."
"""How the names of a classifier's tensors in the same file begin."""


class BundleHeader(BaseModel):
    """Metadata of a detector file.

    Attributes
    ----------
    format : 1
        Version of this layout.
    detector : str
        Name of the method.
    settings : dict
        Its settings, tile size and mpp included.
    trained_on : list of str
        Names of slides or tile sets.
    backbone : EncoderRecord or None
        Third-party weights that it was fitted on, which the file does not contain.
    stain_target : tuple of float
        Target of the stain normalisation; empty without it.
    calibration_basis : CalibrationBasis or None
        What its error rates are based on; None in files of earlier versions.
    version : str
        Version of the package that wrote the file.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    detector: str
    settings: dict[str, Any]
    trained_on: list[str] = []
    backbone: EncoderRecord | None = None
    stain_target: tuple[float, ...] = ()
    calibration_basis: CalibrationBasis | None = None
    version: str


def save_detector(detector: Detector, path: str | PathLike[str]) -> Path:
    """Write a trained detector to one file, atomically, and return its path.

    Raises
    ------
    BundleError
        If the detector has not been calibrated.
    OutputError
        If the file cannot be written.
    """
    return write_bundle(Path(path), *detector_parts(detector))


def detector_parts(detector: Detector) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a trained detector's file.

    Raises
    ------
    BundleError
        If the detector has not been calibrated.
    """
    if detector.calibration is None:
        raise BundleError(f"this {detector.name} detector has not been trained", "train it first")
    header = BundleHeader(
        detector=detector.name,
        settings=detector.settings.model_dump(),
        trained_on=list(detector.trained_on),
        backbone=detector.backbone,
        stain_target=detector.stain_target,
        calibration_basis=detector.calibration.basis,
        version=__version__,
    )
    tensors = {name: value.contiguous() for name, value in detector.saved_state().items()}
    stored = detector.calibration.arrays
    tensors |= {f"{_CALIBRATION}{name}": torch.from_numpy(values.copy()) for name, values in stored.items()}
    return tensors, {_KEY: header.model_dump_json(exclude_none=True)}


def write_bundle(target: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    """Write a file of tensors, atomically, and return its path.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with atomic_path(target) as partial:
        partial.write_bytes(safetensors.torch.save(tensors, metadata=metadata))
    return target


def read_header(path: str | PathLike[str]) -> BundleHeader:
    """Return the metadata of a detector file without reading its tensors.

    Raises
    ------
    BundleError
        If the file is not a detector file.
    """
    file = Path(path)
    metadata = read_metadata(file)
    if _KEY not in metadata and any(key.startswith(_KEY) for key in metadata):
        raise BundleError(f"{file.name} contains a classifier but no detector", "train it with a detector: --model DETECTOR")
    if _KEY not in metadata:
        raise BundleError(f"{file.name} contains tensors but no detector", "give a .safetensors file written by histoad train")
    try:
        return BundleHeader.model_validate_json(metadata[_KEY])
    except ValidationError as err:
        raise BundleError(
            f"{file.name}: its header is not valid ({first_error(err)})", "update napari-histoad, or train it again"
        ) from err


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a file of tensors.

    Raises
    ------
    BundleError
        If the file is not a safetensors file.
    """
    try:
        with safetensors.safe_open(file, framework="numpy") as bundle:
            return dict(bundle.metadata() or {})
    except FileNotFoundError as err:
        raise BundleError(f"there is no detector file {file}", "check the path, or train one with histoad train") from err
    except (OSError, safetensors.SafetensorError) as err:
        raise BundleError(
            f"{file.name} is not a detector file ({err})", "give a .safetensors file written by histoad train"
        ) from err


def has_detector(path: str | PathLike[str]) -> bool:
    """Return whether a file contains a detector; a classifier may be saved without one."""
    return _KEY in read_metadata(Path(path))


def load_detector(path: str | PathLike[str], **overrides: Any) -> Detector:
    """Return a trained detector, ready to score on the CPU.

    Parameters
    ----------
    path : path-like
        A file written by `save_detector`.
    **overrides
        Settings to change that do not affect the weights, such as ``error="top_k"``; the calibration is then dropped. It is
        kept if only ``backbone_weights`` is given, the file of the encoder's weights. By default that file is found by its
        hash where it was at training or when `register_weights` was called.

    Raises
    ------
    BundleError
        If the file is not a detector file, is damaged, or does not match this version.

    Examples
    --------
    >>> from napari_histoad.detectors import load_detector, starter_path
    >>> load_detector(starter_path()).settings.tile_px
    256
    """
    file = Path(path)
    header = read_header(file)
    try:
        takes_file = "backbone_weights" in detector_class(header.detector).Settings.model_fields
        known = known_weights(header.backbone.sha256) if header.backbone is not None and takes_file else None
        found = {} if known is None else {"backbone_weights": known}
        settings = {**detector_class(header.detector).earlier, **header.settings}
        detector = create_detector(header.detector, **{**settings, **found, **overrides})
        if overrides:
            detector.check_trainable()
        _check_encoder(detector, header)
        stored = safetensors.torch.load_file(file)
        tensors = {name: value for name, value in stored.items() if not name.startswith(CLASSIFIER_PREFIX)}
        names = [name for name in tensors if name.startswith(_CALIBRATION)]
        calibrated = {name.removeprefix(_CALIBRATION): tensors.pop(name).numpy() for name in names}
        calibration = Calibration.from_arrays(calibrated, header.calibration_basis)
        detector.load_saved_state(tensors)
    except HistoadError as err:
        raise BundleError(f"{file.name}: {err.what}", err.remedy) from err
    except (KeyError, ValueError, RuntimeError, safetensors.SafetensorError) as err:
        reason = str(err).splitlines()[0][:160]
        raise BundleError(f"{file.name}: its weights do not match its header ({reason})", "train it again") from err
    detector.trained_on, detector.stain_target = tuple(header.trained_on), header.stain_target
    if overrides.keys() <= {"backbone_weights"}:
        detector.calibration = calibration
    return detector.eval()


def _check_encoder(detector: Detector, header: BundleHeader) -> None:
    """Raise a BundleError if the encoder on this machine has other weights than at training."""
    if detector.backbone != header.backbone:
        name = header.backbone.name if header.backbone is not None else "its encoder"
        raise BundleError(
            f"it was trained with other weights of {name} than those on this machine",
            "register the file of weights that it was trained with: histoad models --weights FILE",
        )


def fingerprint(detector: Detector) -> str:
    """Return a hash of method, settings, weights and calibration: detectors with equal hashes give equal scores."""
    digest = hashlib.sha256()
    # Files of earlier versions do not name these settings, and the tensors tell the variants apart.
    described = [detector.name, detector.settings.model_dump(exclude=set(detector.earlier)), detector.stain_target]
    digest.update(json.dumps(described, sort_keys=True).encode())
    for name, value in sorted(detector.saved_state().items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    if detector.calibration is not None:
        for values in detector.calibration.arrays.values():  # of earlier versions' detectors the scores alone
            digest.update(values.tobytes())
    return digest.hexdigest()[:16]
