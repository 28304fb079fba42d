"""A detector of one's own: how much the edges in a tile differ from those in normal tissue.

A package offers it by name through an entry point:

    [project.entry-points."napari_histoad.detectors"]
    edges = "my_package:EdgeDetector"

    python examples/own_detector.py case.svs out
"""

import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

import napari_histoad as ha
from napari_histoad.detectors import Detector, DetectorSettings, TileScores
from napari_histoad.engine import TrainingSource, fit_job, gather_job
from napari_histoad.jobs import run


class EdgeDetector(Detector):
    """Distance, in standard deviations, of the mean gradient from that of normal tiles."""

    name: ClassVar[str] = "edges"
    title: ClassVar[str] = "Edges"
    summary: ClassVar[str] = "Compares the mean gradient of a tile with that of normal tissue."
    exports_onnx: ClassVar[bool] = True
    Settings = DetectorSettings

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__(settings)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("sd", torch.tensor(1.0))

    def _edges(self, images: torch.Tensor) -> torch.Tensor:
        grey = images.float().mean(3)  # (B, H, W)
        return (grey.diff(dim=1)[:, :, :-1].square() + grey.diff(dim=2)[:, :-1].square()).sqrt()

    def fit(self, images: np.ndarray, *, robust: bool = False) -> None:
        values = self._edges(torch.from_numpy(images)).mean((1, 2))
        self.keep(mean=values.mean(), sd=values.std())

    def score(self, images: torch.Tensor) -> TileScores:
        edges = (self._edges(images) - self.mean).abs() / self.sd
        return TileScores(((self._edges(images).mean((1, 2)) - self.mean) / self.sd).abs(), error_map=edges)


def main(slide: str, out: str, tile_px: int = 256) -> ha.AnomalyMap:
    # Without outlines all tissue is taken as normal; pass regions to TrainingSource for better.
    tiles, mpp = run(gather_job([TrainingSource(Path(slide))], tile_px, None))
    detector = run(fit_job(EdgeDetector(DetectorSettings(tile_px=tile_px, mpp=mpp)), tiles))
    return ha.map_slide(slide, out, model=detector)


if __name__ == "__main__":
    print(main(*sys.argv[1:3]).path)
