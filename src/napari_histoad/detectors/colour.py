"""The colour baseline: what a detector has to beat before its morphology counts for anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from napari_histoad.detectors._base import Detector, DetectorSettings, TileScores
from napari_histoad.detectors._gaussian import Gaussian

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["ColourDetector"]

_WHITE = 220


class ColourDetector(Detector):
    """Gaussian on mean and standard deviation of R, G, B and the white fraction of a tile. No morphology at all."""

    name: ClassVar[str] = "colour"
    title: ClassVar[str] = "Colour statistics: the baseline every other detector should beat"
    Settings = DetectorSettings

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__(settings)
        self._gaussian = Gaussian(7)

    @staticmethod
    def _features(images: Tensor) -> Tensor:
        pixels = images.flatten(1, 2)
        values = pixels.float() / 255
        white = (pixels.amin(2) > _WHITE).float().mean(1, keepdim=True)
        return torch.cat([values.mean(1), values.std(1), white], 1)

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        parts = [self._features(torch.from_numpy(images[i : i + 64])) for i in range(0, len(images), 64)]
        self._gaussian.fit(torch.cat(parts).numpy(), robust=robust)

    def score(self, images: Tensor) -> TileScores:
        return TileScores(self._gaussian.distance(self._features(images)))

    def state(self) -> dict[str, Tensor]:
        return self._gaussian.state("gaussian")

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._gaussian.load_state(state, "gaussian")
