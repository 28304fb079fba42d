"""The chosen detector: trained or recalibrated on outlines of normal tissue, or opened from a file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_histoad.errors import RegionError, SettingsError
from napari_histoad.gui.controller.runner import Handlers
from napari_histoad.gui.output_paths import free_name
from napari_histoad.regions import write_geojson
from napari_histoad.tiles import read_places
from napari_histoad.worker import protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from napari_histoad.gui.controller.runner import JobRunner
    from napari_histoad.gui.controller.slides import ChosenSlide
    from napari_histoad.regions import Region

_RECALIBRATED = re.compile(r"\.recalibrated(-\d+)?$")


def outlines_file(detector: Path) -> Path:
    """Return the file with the outlines that a detector was trained on."""
    return detector.with_name(f"{detector.stem}.normal.geojson")


class Training:
    """Trains detectors; their files are named after the chosen slide."""

    trained = Signal(object, list)
    """Path of the detector; places of the outlined tiles that were left out as suspicious."""
    model_checked = Signal(object)
    """Path of a file that holds a detector or a classifier."""
    encoder_known = Signal(object)
    """EncoderDescribed: an encoder's name, licence, origin, and file, which is None if its weights are not on this machine."""

    detectors_listed = Signal(list)
    """The detectors of all installed packages, each with name, title, summary, learns_by_steps and uses_encoder."""

    def __init__(self, runner: JobRunner, chosen: ChosenSlide) -> None:
        self._runner, self._chosen = runner, chosen
        self.model: Path | None = None

    def list_detectors(self) -> None:
        """Ask for the detectors of all installed packages; `detectors_listed` follows."""
        self._runner.query(protocol.ListDetectors(), lambda result: self.detectors_listed.emit(result.detectors))

    def train(self, regions: Sequence[Region], *, detector: str, settings: dict[str, Any], refine: str | None = None) -> None:
        """Start to train on outlines of the chosen slide; `trained` follows."""
        slide = self._chosen.require()
        target = free_name(self._chosen.folder() / f"{slide.name}.{detector}.safetensors")
        outlines = _write_outlines(regions, target)
        # The detector learns the colours that the window shows: slides with a colour profile are shown in sRGB.
        settings = {**settings, "srgb": slide.icc_profile is not None}
        args = {"regions": outlines, "out": target, "detector": detector, "settings": settings, "refine": refine}
        self._chosen.submit(protocol.Train, args, Handlers("detector", self._on_trained))

    def recalibrate(self, regions: Sequence[Region]) -> None:
        """Start to set the thresholds of the chosen detector by outlines of the chosen slide; `trained` follows."""
        model = self.require_model("no trained detector is chosen")
        target = free_name(self._chosen.folder() / f"{_RECALIBRATED.sub('', model.stem)}.recalibrated.safetensors")
        args = {"regions": _write_outlines(regions, target), "model": model, "out": target}
        self._chosen.submit(protocol.Recalibrate, args, Handlers("detector", self._on_trained))

    def _on_trained(self, result: protocol.Trained) -> None:
        self.model = result.path
        self.trained.emit(self.model, [] if result.suspicious is None else read_places(result.suspicious))

    def look_for_encoder(self, name: str, *, fetch: bool = False) -> None:
        """Start to look for the weights of an encoder of timm, or to download them; `encoder_known` follows."""
        args = {"name": name, "fetch": fetch}
        self._chosen.submit(protocol.DescribeEncoder, args, Handlers("detector", self.encoder_known.emit))

    def check_model(self, path: Path) -> None:
        """Start to check whether a file holds a detector; `model_checked` follows, or an error with the reason."""
        args = protocol.CheckModel(model=path)
        self._runner.submit(args, Handlers("map", lambda _: self.model_checked.emit(path)))

    def require_model(self, problem: str) -> Path:
        """Return the file of the chosen detector; if there is none, raise `SettingsError` with the ``problem``."""
        if self.model is None:
            raise SettingsError(problem, "choose one in step 5, or train one in step 4")
        return self.model


def _write_outlines(regions: Sequence[Region], detector: Path) -> Path:
    """Write the outlines that a detector is trained on beside it."""
    if not regions:
        raise RegionError("no normal tissue is outlined", "click Outline normal tissue and draw a few shapes")
    outlines = outlines_file(detector)
    write_geojson(regions, outlines)
    return outlines
