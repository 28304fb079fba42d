"""``histoad models``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from napari_histoad.cli._console import command, emit, say
from napari_histoad.cli._options import JsonOption
from napari_histoad.errors import OutputError

if TYPE_CHECKING:
    from napari_histoad.detectors import DetectorDescription


def _fetch(name: str, *, agreed: bool, as_json: bool) -> None:
    from napari_histoad.detectors import describe_encoder, fetch_weights

    known = describe_encoder(name)
    if not known["file"]:
        say(f"{name}: licence {known['licence']}, downloaded from {known['from']}")
        if not agreed and not typer.confirm("Download these weights under this licence?", err=True):
            raise typer.Exit(1)
        known["file"] = str(fetch_weights(name))
    emit(known, [(key.capitalize(), value) for key, value in known.items()], as_json=as_json)


def _names(detector: DetectorDescription) -> str:
    return f"{detector.name} ({detector.choice})" if detector.choice else detector.name


def _about(encoder: dict[str, Any]) -> str:
    resolution = "" if encoder["mpp"] is None else f" at {encoder['mpp']:g} µm/px"
    access = ", access on request" if encoder["gated"] else ""
    return f"Encoder of {encoder['side']} px tiles{resolution}; licence: {encoder['licence']}{access}"


@command("histoad models normal.safetensors", "histoad models normal.safetensors --onnx normal.onnx")
def models(
    model: Annotated[Path | None, Argument(help="Detector file to describe or to export.")] = None,
    fetch: Annotated[
        str | None,
        Option(help="Encoder of timm, or hf-hub:owner/name: show its licence and download its weights."),
    ] = None,
    yes: Annotated[bool, Option("--yes", help="With --fetch: accept the licence without being asked.")] = False,
    weights: Annotated[
        Path | None,
        Option(
            help="File with encoder weights: remember where it is, for detectors that were trained on these weights elsewhere.",
            show_default=False,
        ),
    ] = None,
    onnx: Annotated[Path | None, Option(help="ONNX file to write the detector to, for other programs.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the detectors and known encoders, describe a detector file, export it as ONNX, or fetch encoder weights."""
    if weights is not None:
        from napari_histoad.detectors import known_weights, register_weights

        digest = register_weights(weights)
        if known_weights(digest) is None:
            what = f"the place of {weights.name} cannot be remembered: your settings folder cannot be written"
            raise OutputError(
                what, "make it writable, set XDG_CONFIG_HOME to another folder, or pass the file with --backbone-weights"
            )
        emit({"weights": str(weights), "sha256": digest}, [("Remembered", f"{weights} (SHA-256 {digest})")], as_json=as_json)
        return
    if fetch is not None:
        _fetch(fetch, agreed=yes, as_json=as_json)
        return
    from napari_histoad.detectors import (
        KNOWN_ENCODERS,
        describe_detectors,
        detector_class,
        export_onnx,
        read_header,
        starter_path,
    )

    if onnx is not None:
        from napari_histoad.classifiers import load_model

        batch = export_onnx(load_model(model or starter_path()), onnx)
        tiles = "any number" if not batch else str(batch)
        emit({"onnx": str(onnx), "batch": batch}, [("Written", str(onnx)), ("Tiles per batch", tiles)], as_json=as_json)
        return
    if model is not None:
        from napari_histoad.calibration import describe_basis

        header = read_header(model)
        rows = [
            ("Method", f"{header.detector}: {detector_class(header.detector).title}"),
            ("Trained on", ", ".join(header.trained_on)),
            ("Calibration", describe_basis(header.calibration_basis)),
            ("Written by", f"napari-histoad {header.version}"),
            *[(name, value) for name, value in header.settings.items()],
        ]
        document = {**header.model_dump(), "calibration": describe_basis(header.calibration_basis)}
        emit(document, [(k, str(v)) for k, v in rows], as_json=as_json)
        return
    known = describe_detectors()
    encoders = [asdict(encoder) for encoder in KNOWN_ENCODERS]
    starter = read_header(starter_path())
    emit(
        {
            "detectors": {detector.name: detector.title for detector in known},
            "choices": {detector.choice: detector.name for detector in known if detector.choice},
            "encoders": encoders,
            "starter": {"path": str(starter_path()), **starter.model_dump()},
        },
        [
            *((_names(detector), f"{detector.title}. {detector.summary}") for detector in known),
            *((f"hf-hub:{encoder['repository']}", _about(encoder)) for encoder in encoders),
            ("(starter model)", f"{starter.detector}, used when no --model is given: {starter_path().name}"),
        ],
        as_json=as_json,
    )
