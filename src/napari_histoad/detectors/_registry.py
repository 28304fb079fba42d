"""Detectors by name: the modules of this package, and the entry points of other packages."""

from __future__ import annotations

import inspect
import logging
import pkgutil
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from napari_histoad.detectors._base import Detector
from napari_histoad.errors import HistoadError, SettingsError, first_error
from napari_histoad.system.extensions import load_extensions

__all__ = ["DetectorDescription", "create_detector", "describe_detectors", "detector_class", "detector_names"]

GROUP = "napari_histoad.detectors"
CHOICES = {"best": "combined", "fast": "texture"}
"""Names for those who do not want to choose a method."""
_PACKAGE = __name__.rpartition(".")[0]


class DetectorDescription(BaseModel):
    """What the terminal, the panel and the documentation show of a detector.

    Attributes
    ----------
    choice : str or None
        Its other name, see `CHOICES`.
    name, title, summary, learns_by_steps, uses_encoder, exports_onnx
        The class attributes of the same names.
    """

    model_config = ConfigDict(frozen=True)

    choice: str | None
    name: str
    title: str
    summary: str
    learns_by_steps: bool
    uses_encoder: bool
    exports_onnx: bool


@cache
def _built_in() -> tuple[str, ...]:
    """Return the names of the public modules of this package; each holds the detector of its name."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(import_module(_PACKAGE).__path__) if not m.name.startswith("_")))


def detector_names() -> list[str]:
    """Return the names of all detectors, built-in ones first. Built-in methods are not imported for this."""
    return [*_built_in(), *(name for name in load_extensions(GROUP) if name not in _built_in())]


def describe_detectors() -> list[DetectorDescription]:
    """Return the descriptions of all detectors, those of other packages included; those of `CHOICES` come first.

    A detector that cannot be imported or lacks an attribute is left out; a warning in the log says why.
    """
    found = []
    choices = {name: choice for choice, name in CHOICES.items()}
    for name in dict.fromkeys([*choices, *detector_names()]):
        try:
            cls = detector_class(name)
            attributes = {field: getattr(cls, field) for field in DetectorDescription.model_fields if field != "choice"}
            found.append(DetectorDescription(choice=choices.get(name), **attributes))
        except (AttributeError, HistoadError, ImportError, ValidationError) as err:
            reason = str(err).splitlines()[0]
            logging.getLogger("napari_histoad").warning("The detector %s is left out (%s)", name, reason)
    return found


def detector_class(name: str) -> type[Detector]:
    """Return the class of a detector.

    Parameters
    ----------
    name : str
        See `detector_names`; or ``best``, ``fast``, or ``anomalib:<model>``.

    Raises
    ------
    SettingsError
        If no detector has that name, or what another package registers under it is no detector.
    """
    name = CHOICES.get(name, name)
    if name.startswith("anomalib:"):
        return import_module(f"{_PACKAGE}._anomalib").anomalib_class(name)  # type: ignore[no-any-return]
    if name in _built_in():
        classes = inspect.getmembers(import_module(f"{_PACKAGE}.{name}"), inspect.isclass)
        found = next((cls for _, cls in classes if getattr(cls, "name", None) == name), None)
    elif name in (others := load_extensions(GROUP)):
        found = others[name]
    else:
        raise SettingsError(f"there is no detector named {name!r}", f"choose one of {', '.join([*CHOICES, *detector_names()])}")
    if not (inspect.isclass(found) and issubclass(found, Detector) and found.name == name):
        what = f"what is registered as {name} is not a subclass of Detector with this name"
        raise SettingsError(what, "update or uninstall the package that registers it")
    return found


def create_detector(name: str, **settings: Any) -> Detector:
    """Return an untrained detector.

    Parameters
    ----------
    name : str
        See `detector_class`.
    **settings
        Fields of the method's settings; those left out keep their defaults.

    Raises
    ------
    SettingsError
        If the name is unknown, or a setting is unknown or out of range.

    Examples
    --------
    >>> create_detector("texture", tile_px=128, mpp=1.0).settings.measure
    'fused'
    """
    cls = detector_class(name).variant(settings)
    try:
        return cls(cls.Settings(**settings))
    except ValidationError as err:
        fields = ", ".join(cls.Settings.model_fields)
        raise SettingsError(f"settings of {name}: {first_error(err)}", f"the settings are {fields}") from err
