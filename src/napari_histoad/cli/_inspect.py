"""``histoad info``, ``convert``, ``models``, ``bench`` and ``doctor``: what is there."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from napari_histoad.cli._console import (
    SLIDE,
    CompileOption,
    DeviceOption,
    JsonOption,
    MppOption,
    OverrideMppOption,
    command,
    emit,
    follow,
    say,
    table,
)
from napari_histoad.errors import OutputError, SettingsError

__all__ = ["bench", "convert", "doctor", "info", "models"]


@command
def info(
    slide: Annotated[Path, typer.Argument(help="A slide.", **SLIDE, show_default=False)],
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show format, size, levels, resolution and what else a slide says of itself."""
    from napari_histoad.slide import GivenMpp, open_slide

    with open_slide(slide, **GivenMpp(slide_mpp, override_mpp).of(slide)) as opened:
        document = {
            "path": str(opened.path),
            "format": opened.format,
            "height": opened.shape[0],
            "width": opened.shape[1],
            "mpp": opened.mpp,
            "mpp_in_file": opened.file_mpp,
            "levels": [{"height": lv.shape[0], "width": lv.shape[1], "downsample": lv.downsample} for lv in opened.levels],
            "associated": list(opened.associated),
            "icc_profile": opened.icc_profile is not None,
            "properties": opened.properties,
            "notes": list(opened.notes),
            "advice": opened.advice,
        }
        mpp = "unknown: pass --slide-mpp" if opened.mpp is None else f"{opened.mpp:g} µm per pixel"
        rows = [
            ("File", opened.path.name),
            ("Format", opened.format),
            ("Size", f"{opened.shape[1]:,} x {opened.shape[0]:,} px (width x height)"),
            ("Resolution", mpp),
            *[
                (f"Level {i}", f"{lv.shape[1]:,} x {lv.shape[0]:,}, downsample {lv.downsample:.6g}")
                for i, lv in enumerate(opened.levels)
            ],
            ("Also in the file", ", ".join(opened.associated) or "nothing else"),
            *[(name, value) for name, value in opened.properties.items() if len(value) < 100],
            *[("Note", note) for note in opened.notes],
            *([("Advice", opened.advice)] if opened.advice else []),
        ]
    emit(document, rows, as_json=as_json)


@command
def convert(
    slide: Annotated[Path, typer.Argument(help="Any slide or picture.", **SLIDE, show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The .tif to write; default: beside it.", show_default=False)] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="The same pixels, at about five times the size.")] = False,
    channels: Annotated[
        str | None, typer.Option(help="Of a grey, 16-bit or fluorescence picture: one channel or three, for example 2,1,0.")
    ] = None,
    white: Annotated[
        int | None, typer.Option(help="With --channels: the intensity that becomes white; default by the camera's bits.", min=1)
    ] = None,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a slide into a pyramidal tiled TIFF, which opens fast and everywhere."""
    from napari_histoad.slide import GivenMpp, convert_job, is_remote, open_slide

    chosen = None if channels is None else _numbers(channels)
    if white is not None and chosen is None:
        raise SettingsError("--white needs --channels", "choose one channel or three: --channels 0")
    with open_slide(slide, **GivenMpp(slide_mpp, override_mpp).of(slide), channels=chosen, white=white) as opened:
        name = f"{opened.name}.pyramid.tif"
        target = out or (Path(name) if is_remote(opened.path) else opened.path.with_name(name))
        if target.is_dir() or not target.name:
            raise SettingsError(f"--out {target} is a folder", f"name a file in it: --out {target / name}")
        if not is_remote(opened.path) and target.resolve() == opened.path.resolve():
            raise SettingsError(f"{target.name} is the slide itself", "name another file with --out")
        follow(convert_job(opened, target, lossless=lossless), quiet=as_json)
    emit({"slide": str(opened.path), "copy": str(target)}, [("Copy", str(target))], as_json=as_json)


def _numbers(text: str) -> list[int]:
    remedy = "give one or three, counted from 0, for example --channels 2,1,0"
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"--channels {text!r} are not numbers", remedy) from None
    if min(numbers) < 0:
        raise SettingsError(f"--channels {text}: channels are not negative", remedy)
    return numbers


def _fetch(name: str, *, agreed: bool, as_json: bool) -> None:
    from napari_histoad.detectors import describe_backbone, fetch_weights

    known = describe_backbone(name)
    if not known["file"]:
        say(f"{name}: licence {known['licence']}, from {known['from']}")
        if not agreed and not typer.confirm("Download these weights under this licence?", err=True):
            raise typer.Exit(1)
        known["file"] = str(fetch_weights(name))
    emit(known, [(key.capitalize(), value) for key, value in known.items()], as_json=as_json)


@command
def models(
    model: Annotated[Path | None, typer.Argument(help="A detector file to describe.", show_default=False)] = None,
    fetch: Annotated[
        str | None, typer.Option(help="Download the weights of an encoder of timm's, after showing its licence.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the licence without being asked.")] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="File of an encoder's weights, for detectors that were fitted on it elsewhere.", show_default=False),
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="Write the detector as this ONNX file, for other programs.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods, describe a detector file or write it as ONNX, or make an encoder known."""
    if weights is not None:
        from napari_histoad.detectors import known_weights, register_weights

        digest = register_weights(weights)
        if known_weights(digest) is None:
            what = f"{weights.name} cannot be made known: your settings folder cannot be written"
            raise OutputError(what, "make it writable (XDG_CONFIG_HOME names another), or give the file as --backbone-weights")
        emit(
            {"weights": str(weights), "sha256": digest}, [("Known from now on", f"{weights} (SHA-256 {digest})")], as_json=as_json
        )
        return
    if fetch is not None:
        _fetch(fetch, agreed=yes, as_json=as_json)
        return
    from napari_histoad.detectors import describe_detectors, detector_class, export_onnx, read_header, starter_path

    if onnx is not None:
        from napari_histoad.classifiers import load_model

        batch = export_onnx(load_model(model or starter_path()), onnx)
        tiles = "as many as you like" if not batch else str(batch)
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
    titles = {found.name: f"{found.title}. {found.summary}" for found in describe_detectors()}
    starter = read_header(starter_path())
    emit(
        {"detectors": titles, "starter": {"path": str(starter_path()), **starter.model_dump()}},
        [*titles.items(), ("(starter model)", f"{starter.detector}, used when no --model is given: {starter_path().name}")],
        as_json=as_json,
    )


@command
def bench(
    slide: Annotated[
        Path | None, typer.Argument(help="A slide; without one a sample is drawn.", **SLIDE, show_default=False)
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Trained detector; default the starter model.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Step between tiles, tile pixels; default half a tile.", min=1, max=1024)
    ] = None,
    seconds: Annotated[float, typer.Option(help="About how long each part is timed.", min=0.1)] = 5.0,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    device: DeviceOption = "auto",
    compiled: CompileOption = False,
    as_json: JsonOption = False,
) -> None:
    """Time decoding, network and both at once, to see whether this machine runs as it should."""
    from napari_histoad import __version__
    from napari_histoad.detectors import load_detector, starter_path
    from napari_histoad.engine import bench_job
    from napari_histoad.samples import SlidePlan, sample_job
    from napari_histoad.slide import GivenMpp, open_slide

    detector = load_detector(model or starter_path())
    with tempfile.TemporaryDirectory() as scratch:
        path = slide or follow(sample_job(Path(scratch) / "sample.tif", SlidePlan(4096)), quiet=as_json)
        with open_slide(path, **GivenMpp(slide_mpp, override_mpp).of(path)) as opened:
            job = bench_job(opened, detector, device=device, compile=compiled, stride_px=stride, seconds=seconds)
            speed = follow(job, quiet=as_json)
            about = f"{opened.format}, {opened.properties.get('Compression', 'compression unknown')}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, napari-histoad {__version__}"
    rates = [("Decoding only", speed.decode), ("Network only", speed.network), ("Both at once", speed.whole)]
    bound = "of what both in turn would give" if speed.shared else "of the slower of the two"
    rows = [
        ("Slide", f"{path.name if slide else 'sample'}: {about}"),
        ("Detector", f"{detector.name}, tiles of {speed.tile_px} px every {speed.stride_px} px"),
        ("Device", f"{speed.device}, {speed.pace}"),
        ("Machine", machine),
        *[(name, f"{rate:,.0f} tiles/s, {speed.megapixels(rate):,.0f} MP/s") for name, rate in rates],
        ("Efficiency", f"{speed.efficiency:.2f} {bound}; writing the map of {speed.tiles:,} tiles included"),
        *([("Peak memory", f"{speed.peak_mb:,.0f} MB")] if speed.peak_mb else []),
    ]
    derived = {"bound": speed.bound, "efficiency": speed.efficiency, "machine": machine, "slide": str(path), "format": about}
    emit({**asdict(speed), **derived}, rows, as_json=as_json)


@command
def doctor(as_json: JsonOption = False) -> None:
    """Check what this machine has, and say what is missing and how to get it."""
    checks: list[tuple[str, bool, str]] = []
    names = {
        "torch": "torch",
        "napari": "napari",
        "tifffile": "tifffile",
        "imagecodecs": "imagecodecs",
        "openslide": "openslide-python",
        "zarr": "zarr",
        "qtpy": "qtpy",
    }
    for module, package in names.items():
        try:
            importlib.import_module(module)
            checks.append((package, True, importlib.metadata.version(package)))
        except Exception as err:  # noqa: BLE001 - a check reports whatever goes wrong
            checks.append((package, False, f"{type(err).__name__}: {err}; pip install {package}"))
    try:
        from napari_histoad.engine import choose_device

        checks.append(("device", True, choose_device("auto").title))
    except Exception as err:  # noqa: BLE001
        checks.append(("device", False, str(err)))
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    checks.append(("disk", free > 2, f"{free:.0f} GB free here"))
    if sys.platform.startswith("linux"):
        display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        checks.append(("display", True, "there" if display else "none: napari needs one (xvfb-run), the terminal does not"))
    document = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "checks": [{"name": n, "ok": ok, "says": text} for n, ok, text in checks],
    }
    if as_json:
        emit(document, as_json=True)
    else:
        table([("python", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")])
        table([(f"{'ok  ' if ok else 'FAIL'} {n}", text) for n, ok, text in checks])
    if not all(ok for _, ok, _ in checks):
        raise typer.Exit(1)
