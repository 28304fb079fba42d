"""``histoad bench``."""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_histoad.cli._console import command, emit
from napari_histoad.cli._options import (
    SLIDE,
    CompileOption,
    DeviceOption,
    JsonOption,
    MppOption,
    OverrideMppOption,
    StrideOption,
    given_mpp,
)
from napari_histoad.cli._progress import follow


@command("histoad bench", "histoad bench case.svs --model normal.safetensors --device cuda")
def bench(
    slide: Annotated[Path | None, Argument(help="The slide to read; without one, a sample slide is drawn.", **SLIDE)] = None,
    model: Annotated[Path | None, Option(help="Detector file; default: the starter model.")] = None,
    stride: StrideOption = None,
    seconds: Annotated[float, Option(help="Approximate duration of each of the three measurements.", min=0.1)] = 5.0,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    device: DeviceOption = "auto",
    compiled: CompileOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast this machine decodes tiles, runs a detector, and does both at once."""
    from napari_histoad import __version__
    from napari_histoad.detectors import load_detector, starter_path
    from napari_histoad.engine import bench_job
    from napari_histoad.samples import SlidePlan, sample_job
    from napari_histoad.slide import open_slide

    detector = load_detector(model or starter_path())
    with tempfile.TemporaryDirectory() as scratch:
        path = slide or follow(sample_job(Path(scratch) / "sample.tif", SlidePlan(4096)), quiet=as_json)
        with open_slide(path, **given_mpp([path], slide_mpp, override_mpp)[0]) as opened:
            job = bench_job(opened, detector, device=device, compile=compiled, stride_px=stride, seconds=seconds)
            speed = follow(job, quiet=as_json)
            about = f"{opened.format}, {opened.properties.get('Compression', 'compression unknown')}"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, napari-histoad {__version__}"
    rates = [("Decoding only", speed.decode), ("Network only", speed.network), ("Both at once", speed.whole)]
    bound = "of the speed of both in turn" if speed.shared else "of the slower of the two"
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
