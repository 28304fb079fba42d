"""Measure decoding, network and complete runs, and compare them in one run.

    python benchmarks/speed.py [--slide SLIDE] [--reference SCRIPT] [--seconds 5] [--rounds 3]

Three networks: a mean over some pixels, which shows what everything but the network costs; the starter model; and ResNet18
with random weights. For each, the rates of decoding, network and complete run that `histoad bench` measures, with and without
overlapping tiles. Then the complete job, tissue mask to finished map, with a mean over all pixels and with ResNet18, each in its
own process. SCRIPT is a minimal pipeline to compare with, run in turns with it: it takes ``--slide``, ``--model
trivial|resnet18``, ``--dtype fp32|bf16`` and ``--out``, and prints a JSON document with ``tiles_s_job``. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the terminal and the panel do

import numpy as np
import torch

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import (
    Detector,
    DetectorSettings,
    TileScores,
    import_timm,
    load_detector,
    starter_path,
    to_pixels,
)
from napari_histoad.engine import bench_job, choose_device, map_job
from napari_histoad.jobs import run
from napari_histoad.samples import write_sample
from napari_histoad.slide import open_slide

if TYPE_CHECKING:
    from torch import Tensor


class Mean(Detector):
    """A mean over a sixteenth of the pixels: costs almost nothing."""

    name: ClassVar[str] = "mean"
    title: ClassVar[str] = "Mean over some pixels"
    Settings = DetectorSettings

    def score(self, images: Tensor) -> TileScores:
        """Score a batch."""
        return TileScores(images[:, ::4, ::4].float().mean((1, 2, 3)))


class Average(Detector):
    """The trivial network of SCRIPT: all pixels as floats, centred and scaled, and their mean for each colour."""

    name: ClassVar[str] = "average"
    title: ClassVar[str] = "Mean over all pixels"
    Settings = DetectorSettings

    def score(self, images: Tensor) -> TileScores:
        """Score a batch."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32).sub_(127.5).mul_(1 / 64)
        return TileScores(pixels.mean((2, 3)).softmax(1)[:, 1])


class ResNet18(Detector):
    """A network that takes much longer than decoding."""

    name: ClassVar[str] = "resnet18"
    title: ClassVar[str] = "ResNet18 with random weights"
    Settings = DetectorSettings

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__(settings)
        torch.manual_seed(0)
        network = import_timm().create_model("resnet18", num_classes=2)
        self._network = network.eval().to(memory_format=torch.channels_last)

    def score(self, images: Tensor) -> TileScores:
        """Score a batch."""
        return TileScores(self._network(to_pixels(images) - 0.5).float().softmax(1)[:, 1])


def made(kind: type[Detector]) -> Detector:
    detector = kind(DetectorSettings())
    detector.calibration = Calibration.from_scores(np.linspace(0, 1, 200))
    return detector


def whole_job(slide: Path, kind: type[Detector]) -> None:
    """Map a slide with tiles side by side and print the rate; runs in its own process."""
    with tempfile.TemporaryDirectory() as scratch, open_slide(slide) as opened:
        detector = made(kind)
        started = time.perf_counter()
        result = run(map_job(opened, Path(scratch), detector=detector, stride_px=256))
        seconds = time.perf_counter() - started
    print(json.dumps({"tiles": len(result), "tiles_s_job": len(result) / seconds}))


KINDS: dict[str, type[Detector]] = {"average": Average, "resnet18": ResNet18}


def rate_of(command: list[str]) -> float:
    output = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.strip().splitlines()[-1])["tiles_s_job"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole-job", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.whole_job:
        whole_job(options.slide, KINDS[options.whole_job])
        return
    with tempfile.TemporaryDirectory() as scratch:
        slide = options.slide or write_sample(Path(scratch) / "sample.tif", 8192)
        print(f"{'':<22}{'decode':>9}{'network':>9}{'whole':>9}  of decode  of network  of the bound   (tiles/s)")
        detectors = (("mean", made(Mean)), ("starter model", load_detector(starter_path())), ("ResNet18", made(ResNet18)))
        for title, detector in detectors:
            for stride in (256, 128):
                with open_slide(slide) as opened:
                    speed = run(bench_job(opened, detector, stride_px=stride, seconds=options.seconds))
                of = (speed.whole / speed.decode, speed.whole / speed.network, speed.efficiency)
                print(
                    f"{f'{title}, every {stride} px':<22}{speed.decode:>9,.0f}{speed.network:>9,.0f}{speed.whole:>9,.0f}"
                    f"{of[0]:>11.2f}{of[1]:>12.2f}{of[2]:>14.2f}"
                )
        print(f"{speed.device}; peak memory {speed.peak_mb or 0:,.0f} MB")
        dtype = "bf16" if choose_device().bf16 else "fp32"
        for kind, model in (("average", "trivial"), ("resnet18", "resnet18")):
            ours = [str(Path(__file__)), "--whole-job", kind, "--slide", str(slide)]
            theirs = [str(options.reference), "--slide", str(slide), "--model", model, "--dtype", dtype, "--out", scratch]
            rates = [(rate_of(ours), rate_of(theirs) if options.reference else 0.0) for _ in range(options.rounds)]
            mine, bare = (statistics.median(column) for column in zip(*rates, strict=True))
            beside = f"; SCRIPT {bare:,.0f}, ratio {mine / bare:.2f}" if options.reference else ""
            print(f"whole job, {kind}: {mine:,.0f} tiles/s{beside}")


if __name__ == "__main__":
    main()
