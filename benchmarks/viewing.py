"""Measure a huge slide in napari: time to open, time to the first frame, and how long panning blocks the window.

A step of a pan is read by us and drawn by napari; the longest wait for reading is printed separately.

    python tools/with_display.py python benchmarks/viewing.py [--side 100000] [--slide SLIDE]

Without SLIDE, a pyramidal JPEG TIFF of SIDE² pixels is written from crops of the sample slide.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from huge_slides import TILE, encode, write_pyramid
from qtpy.QtWidgets import QApplication

from napari_histoad.samples import SlidePlan
from napari_histoad.samples._draw import draw_block
from napari_histoad.slide import LevelArray, _pyramid, open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZOOMS = (1, 2, 5, 8, 12, 16, 20, 30, 40, 60)
STEPS = 25
REST_S = 1.0


class Timed(LevelArray):
    """A level that records the longest wait for its pixels, in milliseconds."""

    longest = 0.0

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        started = time.perf_counter()
        pixels = super().__getitem__(key)
        Timed.longest = max(Timed.longest, 1000 * (time.perf_counter() - started))
        return pixels


def rest() -> None:
    until = time.perf_counter() + REST_S
    while time.perf_counter() < until:
        QApplication.processEvents()
        time.sleep(0.01)


def write_slide(path: Path, side: int) -> Path:
    block = draw_block(SlidePlan(8192), 3000, 3000, 2048, 2048)
    encoded = [encode(block[y : y + TILE, x : x + TILE]) for y in range(0, 2048, TILE) for x in range(0, 2048, TILE)]
    rng = np.random.default_rng(0)
    return write_pyramid(path, side, lambda _, across: (encoded[int(rng.integers(len(encoded)))] for _ in range(across**2)))


def stalls(viewer: napari.Viewer, zoom: float, steps: int, side_um: float) -> list[float]:
    """Return how long each step of a pan blocked the window, in milliseconds."""
    viewer.scene.camera.zoom = zoom
    viewer.scene.camera.center = (side_um * 0.4, side_um * 0.3)
    rest()  # zooming is not panning
    Timed.longest = 0.0
    times = []
    for step in range(steps):
        started = time.perf_counter()
        viewer.scene.camera.center = (side_um * 0.4, side_um * (0.3 + 0.0005 * step * 4 / max(zoom, 0.02)))
        QApplication.processEvents()
        times.append(1000 * (time.perf_counter() - started))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--side", type=int, default=100_000)
    options = parser.parse_args()
    _pyramid.LevelArray = Timed
    with tempfile.TemporaryDirectory() as scratch:
        path = options.slide or write_slide(Path(scratch) / "huge.tif", options.side)
        started = time.perf_counter()
        open_slide(path).close()
        print(f"first open      {1000 * (time.perf_counter() - started):.0f} ms, imports of the backends included")
        started = time.perf_counter()
        slide = open_slide(path)
        print(f"open            {1000 * (time.perf_counter() - started):.0f} ms, {slide.shape[1]:,} x {slide.shape[0]:,} px")
        viewer = napari.Viewer()
        viewer.window.resize(1500, 950)
        QApplication.processEvents()
        started = time.perf_counter()
        viewer.open(str(path), plugin="napari-histoad")
        QApplication.processEvents()
        viewer.screenshot(canvas_only=True, flash=False)
        print(f"first frame     {1000 * (time.perf_counter() - started):.0f} ms")
        side_um = slide.shape[0] * (slide.mpp or 1.0)
        fit = viewer.scene.camera.zoom
        full = 1 / (slide.mpp or 1.0)
        # Zooms just above a level's own show the most pixels and are the slowest.
        for zoom in [*(fit * k for k in ZOOMS if fit * k < full), full]:
            times = np.array(stalls(viewer, zoom, STEPS, side_um))
            print(
                f"pan at {zoom / fit:>4.0f} x the overview: longest step {times.max():.0f} ms, "
                f"median {np.median(times):.0f} ms, longest wait for pixels {Timed.longest:.0f} ms"
            )
        viewer.close()


if __name__ == "__main__":
    main()
