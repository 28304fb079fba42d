"""Names of detectors; other packages add theirs through the entry-point group ``napari_histoad.detectors``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from napari_histoad.errors import SettingsError

if TYPE_CHECKING:
    from napari_histoad.detectors._base import Detector

__all__ = ["create_detector", "detector_class", "detector_names"]

_BUILT_IN = {
    "vqvae": "napari_histoad.detectors.vqvae:VqVaeDetector",
    "texture": "napari_histoad.detectors.texture:TextureDetector",
    "embedding": "napari_histoad.detectors.embedding:EmbeddingDetector",
    "deep_isolation_forest": "napari_histoad.detectors.deep_isolation_forest:DeepIsolationForestDetector",
    "geometric_transforms": "napari_histoad.detectors.geometric_transforms:GeometricTransformsDetector",
    "kde_autoencoder": "napari_histoad.detectors.kde_autoencoder:KdeAutoencoderDetector",
    "adversarial_autoencoder": "napari_histoad.detectors.adversarial_autoencoder:AdversarialAutoencoderDetector",
    "perceptual_autoencoder": "napari_histoad.detectors.perceptual_autoencoder:PerceptualAutoencoderDetector",
    "perceptual_gan": "napari_histoad.detectors.perceptual_gan:PerceptualGanDetector",
    "colour": "napari_histoad.detectors.colour:ColourDetector",
}
GROUP = "napari_histoad.detectors"


def detector_names() -> list[str]:
    """Return the names of all detectors, built-in ones first."""
    return [*_BUILT_IN, *sorted(point.name for point in entry_points(group=GROUP) if point.name not in _BUILT_IN)]


def detector_class(name: str) -> type[Detector]:
    """Return the class of a detector.

    Raises
    ------
    SettingsError
        If no detector has that name.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    if name.startswith("anomalib:"):
        return import_module("napari_histoad.detectors.anomalib_models").anomalib_class(name)  # type: ignore[no-any-return]
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()  # type: ignore[no-any-return]
    raise SettingsError(f"there is no detector named {name!r}", f"known are {', '.join(detector_names())}")


def create_detector(name: str, **settings: Any) -> Detector:
    """Return an untrained detector.

    Parameters
    ----------
    name : str
        See `detector_names`.
    **settings
        Fields of the method's settings; those left out keep their defaults.

    Raises
    ------
    SettingsError
        If the name or a setting is unknown or out of range.
    """
    cls = detector_class(name)
    try:
        return cls(cls.Settings(**settings))
    except ValidationError as err:
        raise SettingsError(
            f"settings of {name}: {first_fault(err)}", f"fields are {', '.join(cls.Settings.model_fields)}"
        ) from err


def first_fault(err: ValidationError) -> str:
    """Return the first fault of a validation error in one line."""
    fault = err.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])
