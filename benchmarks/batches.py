"""Speed of scoring with other batch sizes than the default: whether trying them during a map is worth it.

    python benchmarks/batches.py [--rounds 5] [--tiles 256] [--models FILE…]

For each network, all settings are timed in turns on the same random tiles; printed is the CPU time per tile as a ratio to the
default's, the median over the rounds, and the tiles per second. CPU time does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the terminal and the panel do

import numpy as np
from speed import Mean, ResNet18, made

from napari_histoad.detectors import create_detector, load_detector, starter_path
from napari_histoad.engine import choose_device
from napari_histoad.engine._batch import batches_of, score_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.engine import DeviceChoice

CELLS = 16


def measure(detector: Detector, choice: DeviceChoice, images: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the CPU time and the time of scoring tiles once."""
    cpu, started = time.process_time(), time.perf_counter()
    for _ in score_stream(detector, choice, batches_of(images, choice.batch), CELLS):
        pass
    return time.process_time() - cpu, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=256)
    parser.add_argument("--models", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    default = choose_device("cpu")
    settings = {f"{batch} tiles": replace(default, batch=batch) for batch in (default.batch, 2, 4, 16, 32, 64)}
    if default.lanes > 1:
        settings["fewer threads"] = replace(default, lanes=default.lanes // 2)
    networks = {
        "mean": made(Mean),
        "starter model": load_detector(starter_path()),
        "ResNet18": made(ResNet18),
        "VQ-VAE of 64 px": create_detector("vqvae", target="pixels", tile_px=64),
        **{path.stem: load_detector(path) for path in options.models},
    }
    print(f"{default.title}; {default.pace} by default")
    for name, detector in networks.items():
        side = detector.settings.tile_px
        images = np.random.default_rng(0).integers(0, 256, (options.tiles, side, side, 3), np.uint8)
        for choice in settings.values():
            measure(detector, choice, images[: choice.batch])  # the first batch also allocates
        rounds = [{key: measure(detector, choice, images) for key, choice in settings.items()} for _ in range(options.rounds)]
        first = next(iter(settings))
        ratios = {key: statistics.median(turn[key][0] / turn[first][0] for turn in rounds) for key in settings}
        rate = options.tiles / statistics.median(turn[first][1] for turn in rounds)
        print(f"{name:<18}{rate:>8,.0f} tiles/s  " + "  ".join(f"{key} {ratio:.2f}" for key, ratio in ratios.items()), flush=True)


if __name__ == "__main__":
    main()
