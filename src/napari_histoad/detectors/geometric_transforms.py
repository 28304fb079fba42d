"""A network recognises which of 72 transforms was applied to a tile; it is less sure on unfamiliar tissue.

Paper: Golan & El-Yaniv 2018 (arXiv:1805.10917), equations as in its section 4; the Dirichlet fit after Minka 2000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from napari_histoad.detectors._base import Detector, DetectorSettings, TileScores, weighted_mean
from napari_histoad.detectors._features import features_of, to_pixels
from napari_histoad.networks.autoencoder import shrink
from napari_histoad.networks.wide_resnet import WideResNet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["GeometricTransformsDetector", "GeometricTransformsSettings", "fit_dirichlet", "transformed"]

_SHIFT_SHARE = 4
_EPSILON = 1e-6
_ITERATIONS, _TOLERANCE = 1000, 1e-9
TRANSFORMS = 72


class GeometricTransformsSettings(DetectorSettings):
    """Settings of the geometric transforms.

    Attributes
    ----------
    input_px : int
        Side that tiles are resized to; shifts are a quarter of it.
    depth, widen : int
        Size of the wide residual network; 16 and 8 in the paper, on 32 px. The default is for CPUs.
    max_steps, batch, learning_rate : int, int, float
        Each tile of a batch gets one random transform.
    score_transforms : int
        Number of the 72 transforms that a tile is scored with, one forward pass each; the paper uses all.
    """

    input_px: int = Field(32, ge=16, le=256, multiple_of=8)
    depth: int = Field(10, ge=10, le=40)
    widen: int = Field(4, ge=1, le=16)
    max_steps: int = Field(600, ge=1, le=1_000_000)
    batch: int = Field(64, ge=2, le=1024)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    score_transforms: int = Field(TRANSFORMS, ge=1, le=TRANSFORMS)

    @model_validator(mode="after")
    def _check(self) -> GeometricTransformsSettings:
        if (self.depth - 4) % 6:
            raise ValueError("depth must be 10, 16, 22, … (6 n + 4)")
        return self


class GeometricTransformsDetector(Detector):
    """Dirichlet normality of the predictions for every transform."""

    name: ClassVar[str] = "geometric_transforms"
    title: ClassVar[str] = "Geometric transforms"
    summary: ClassVar[str] = "Measures how unsure a network is about which of 72 transforms was applied to a tile."
    learns_by_steps: ClassVar[bool] = True
    exports_onnx: ClassVar[bool] = True
    Settings = GeometricTransformsSettings
    settings: GeometricTransformsSettings
    network: WideResNet
    alpha: Tensor

    def __init__(self, settings: GeometricTransformsSettings) -> None:
        super().__init__(settings)
        self.network = WideResNet(TRANSFORMS, settings.depth, settings.widen)
        self.hold("alpha", torch.ones(TRANSFORMS, TRANSFORMS))
        # Spread over flips, shifts and turns alike.
        self._scored = torch.linspace(0, TRANSFORMS - 1, settings.score_transforms).round().int().tolist()

    @property
    def allows_bfloat16(self) -> bool:
        return False  # logarithms of small probabilities

    @property
    def steps(self) -> int:
        return self.settings.max_steps

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.network.parameters(), lr=self.settings.learning_rate)]

    def _shrunk(self, images: Tensor) -> Tensor:
        return 2 * shrink(to_pixels(images), self.settings.input_px) - 1

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        pixels = self._shrunk(images)
        which = torch.arange(len(pixels)) * 7 % TRANSFORMS  # the same ones at every evaluation
        if self.network.training:
            which = torch.randint(TRANSFORMS, (len(pixels),))
        changed = torch.cat([transformed(pixels[k : k + 1], int(t)) for k, t in enumerate(which)])
        logits = self.network(changed)
        target = which.to(pixels.device)
        return {
            "loss": weighted_mean(F.cross_entropy(logits, target, reduction="none"), weights),
            "accuracy": (logits.argmax(1) == target).float().mean(),
        }

    def _predictions(self, images: Tensor) -> Tensor:
        """Return the class probabilities (B, T, 72) of a batch in each scored transform."""
        pixels = self._shrunk(images)
        parts = [self.network(transformed(pixels, t)).softmax(1) for t in self._scored]
        return torch.stack(parts, 1)

    def features(self, images: Tensor) -> Tensor:
        logs = (self._predictions(images) + _EPSILON).log()
        return logs[:, torch.arange(len(self._scored)), self._scored]

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:  # noqa: ARG002
        """Fit a Dirichlet distribution per transform. ``robust`` has no effect: a few anomalies hardly change mean logarithms."""
        probabilities = features_of(lambda part: self._predictions(part).flatten(1), images, self.device)
        probabilities = probabilities.reshape(len(images), len(self._scored), TRANSFORMS).double()
        alpha = self.alpha.cpu().clone()
        for k, t in enumerate(self._scored):
            alpha[t] = fit_dirichlet(probabilities[:, k]).float()
        self.keep(alpha=alpha)

    def score(self, images: Tensor) -> TileScores:
        alpha = self.alpha[self._scored]
        normality = ((alpha - 1) * (self._predictions(images) + _EPSILON).log()).sum(2).mean(1)
        return TileScores(-normality)


def transformed(pixels: Tensor, number: int) -> Tensor:
    """Return pixels (B, C, S, S) in one of 72 ways: 2 flips × 9 shifts by a quarter, mirrored × 4 turns; 0 is none."""
    turn, rest = number % 4, number // 4
    shift, flip = rest % 9, rest // 9
    if flip:
        pixels = pixels.flip(3)
    dy, dx = ((0, 1, -1)[shift // 3], (0, 1, -1)[shift % 3])
    n = pixels.shape[-1] // _SHIFT_SHARE
    if dy or dx:
        padded = F.pad(pixels, (n, n, n, n), mode="reflect")
        side = pixels.shape[-1]
        pixels = padded[:, :, n + dy * n : n + dy * n + side, n + dx * n : n + dx * n + side]
    return pixels.rot90(turn, (2, 3))


def fit_dirichlet(probabilities: Tensor) -> Tensor:
    """Return the maximum-likelihood parameters (K,) of a Dirichlet distribution of rows (N, K), by fixed-point iteration.

    Minka 2000, "Estimating a Dirichlet distribution", eq. 9, from the start that Golan & El-Yaniv give.
    """
    p = (probabilities + _EPSILON) / (probabilities + _EPSILON).sum(1, keepdim=True)
    mean_log = p.log().mean(0)
    mean = p.mean(0)
    alpha = mean * (p.shape[1] - 1) * 0.5 / (mean * (mean.log() - mean_log)).sum().clamp_min(_TOLERANCE)
    for _ in range(_ITERATIONS):
        last, alpha = alpha, _inverse_digamma(torch.digamma(alpha.sum()) + mean_log)
        if (alpha - last).abs().max() < _TOLERANCE:
            break
    return alpha


def _inverse_digamma(y: Tensor) -> Tensor:
    """Return x with digamma(x) = y, five Newton steps (Minka 2000, appendix C)."""
    x = torch.where(y >= -2.22, y.exp() + 0.5, -1 / (y - torch.digamma(torch.ones_like(y))))
    for _ in range(5):
        x = x - (torch.digamma(x) - y) / torch.polygamma(1, x)
    return x
