"""Speed of the parts and of the whole, as ratios in one run.

    python benchmarks/speed.py [--slide SLIDE] [--reference SCRIPT] [--seconds 5] [--rounds 3]

Two networks: a mean over the pixels, which shows what everything but the network costs, and the starter model. For each,
decode-only, network-only and end-to-end rates as `histoad bench` gives them, with and without overlapping tiles. Then the
whole job with the mean, tissue mask to finished map, in a process of its own; SCRIPT, a bare pipeline that takes
``--slide --model trivial`` and prints a JSON document with ``tiles_s_job``, is run in turn with it. Medians over the rounds.
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

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import Detector, DetectorSettings, TileScores, load_detector, starter_path
from napari_histoad.engine import bench_job, map_job
from napari_histoad.jobs import run
from napari_histoad.samples import write_sample
from napari_histoad.slide import open_slide

if TYPE_CHECKING:
    from torch import Tensor


class Mean(Detector):
    """The cheapest network there is."""

    name: ClassVar[str] = "mean"
    title: ClassVar[str] = "Mean over the pixels"
    Settings = DetectorSettings

    def score(self, images: Tensor) -> TileScores:
        """Score a batch."""
        return TileScores(images[:, ::4, ::4].float().mean((1, 2, 3)))


def mean_detector() -> Mean:
    detector = Mean(DetectorSettings())
    detector.calibration = Calibration.from_scores(np.linspace(0, 255, 200))
    return detector


def whole_job(slide: Path) -> None:
    """Map a slide with the mean, tiles side by side, and print the rate: run in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch, open_slide(slide) as opened:
        started = time.perf_counter()
        result = run(map_job(opened, Path(scratch), detector=mean_detector(), stride_px=256))
        seconds = time.perf_counter() - started
    print(json.dumps({"tiles": len(result), "tiles_s_job": len(result) / seconds}))


def rate_of(command: list[str]) -> float:
    output = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.strip().splitlines()[-1])["tiles_s_job"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole-job", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.whole_job:
        whole_job(options.slide)
        return
    with tempfile.TemporaryDirectory() as scratch:
        slide = options.slide or write_sample(Path(scratch) / "sample.tif", 8192)
        print(f"{'':<22}{'decode':>9}{'network':>9}{'whole':>9}  of decode  of network  of the bound   (tiles/s)")
        for title, detector in (("mean", mean_detector()), ("starter model", load_detector(starter_path()))):
            for stride in (256, 128):
                with open_slide(slide) as opened:
                    speed = run(bench_job(opened, detector, stride_px=stride, seconds=options.seconds))
                of = (speed.whole / speed.decode, speed.whole / speed.network, speed.efficiency)
                print(
                    f"{f'{title}, every {stride} px':<22}{speed.decode:>9,.0f}{speed.network:>9,.0f}{speed.whole:>9,.0f}"
                    f"{of[0]:>11.2f}{of[1]:>12.2f}{of[2]:>14.2f}"
                )
        print(f"{speed.device}; peak memory {speed.peak_mb or 0:,.0f} MB")
        ours = [str(Path(__file__)), "--whole-job", "--slide", str(slide)]
        theirs = [str(options.reference), "--slide", str(slide), "--model", "trivial", "--out", scratch]
        rates = [(rate_of(ours), rate_of(theirs) if options.reference else 0.0) for _ in range(options.rounds)]
        mine = statistics.median(rate for rate, _ in rates)
        print(f"whole job with the mean: {mine:,.0f} tiles/s")
        if options.reference:
            bare = statistics.median(rate for _, rate in rates)
            print(f"bare pipeline:           {bare:,.0f} tiles/s; ours is {mine / bare:.2f} of it")


if __name__ == "__main__":
    main()
