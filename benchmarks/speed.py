"""Speed of the parts and of the whole, as ratios in one run.

    python benchmarks/speed.py [--slide SLIDE] [--side 8192]

Without a slide the sample slide is drawn. Prints decode-only, network-only and end-to-end rates, and how much of the
bound 1 / (1/decode + 1/network) on shared cores the whole reaches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from napari_histoad.detectors import load_detector, starter_path
from napari_histoad.engine import choose_device, map_job
from napari_histoad.engine._score import BATCH, score_batch
from napari_histoad.jobs import run
from napari_histoad.samples import write_sample
from napari_histoad.slide import open_slide
from napari_histoad.tiles import TileGrid, TileLoader, find_tissue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    choice = choose_device(options.device)
    detector = load_detector(starter_path())
    detector.to(choice.device)
    with tempfile.TemporaryDirectory() as scratch:
        path = options.slide or write_sample(Path(scratch) / "sample.tif", options.side)
        with open_slide(path) as slide:
            side, mpp = detector.settings.tile_px, slide.require_mpp()
            grid = TileGrid.cover(slide.shape, mpp, tile_px=side, mpp=detector.settings.mpp, stride_px=side // 2)
            grid = grid.on_tissue(find_tissue(slide))

            started = time.perf_counter()
            for _ in TileLoader(slide, grid, batch=BATCH):
                pass
            decode = len(grid) / (time.perf_counter() - started)

            images = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)
            score_batch(detector, images, choice, 16)
            started, rounds = time.perf_counter(), 20
            for _ in range(rounds):
                score_batch(detector, images, choice, 16)
            network = rounds * BATCH / (time.perf_counter() - started)

            started = time.perf_counter()
            result = run(map_job(slide, Path(scratch), detector=detector, device=options.device))
            whole = len(result) / (time.perf_counter() - started)
    bound = 1 / (1 / decode + 1 / network)
    rows = [
        ("device", choice.title),
        ("tiles", f"{len(grid):,} of {side} px"),
        ("decode only", f"{decode:,.0f} tiles/s"),
        ("network only", f"{network:,.0f} tiles/s"),
        ("end to end", f"{whole:,.0f} tiles/s, tissue mask, store and labels included"),
        ("of the bound", f"{whole / bound:.2f}"),
    ]
    for name, value in rows:
        print(f"{name:<14}{value}")


if __name__ == "__main__":
    main()
