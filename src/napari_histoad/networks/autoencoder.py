"""Autoencoders without a codebook: convolutional, VGG-shaped and fully connected.

Papers: Simonyan & Zisserman 2014 (arXiv:1409.1556, VGG), Beggel et al. 2019 (arXiv:1901.06355, adversarial autoencoder).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvAutoencoder", "DenseAutoencoder", "VggAutoencoder", "critic", "shrink"]

_VGG16: tuple[tuple[int, ...], ...] = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Autoencoder(nn.Module):
    """An encoder to a latent of any shape, and a decoder to the logits of pixels."""

    encoder: nn.Module
    decoder: nn.Module

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (reconstruction (B, 3, S, S) in [0, 1], latent) of pixels (B, 3, S, S) in [0, 1]."""
        latent = self.encoder(pixels)
        return self.decoder(latent).float().sigmoid(), latent.float()


class ConvAutoencoder(Autoencoder):
    """conv3×3 of 64, 32, 16 channels, each followed by ReLU and max-pooling; mirrored, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        down: list[nn.Module] = []
        for wide_in, wide_out in ((3, 64), (64, 32), (32, 16)):
            down += [nn.Conv2d(wide_in, wide_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        up: list[nn.Module] = []
        for wide_in, wide_out in ((16, 16), (16, 32), (32, 64)):
            up += [nn.Conv2d(wide_in, wide_out, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)]
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(*up, nn.Conv2d(64, 3, 3, padding=1))


class VggAutoencoder(Autoencoder):
    """VGG16's convolutions and a 1×1 convolution to 7 channels; mirrored, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        down: list[nn.Module] = []
        last = 3
        for stage in _VGG16:
            for width in stage:
                down += [nn.Conv2d(last, width, 3, padding=1), nn.ReLU()]
                last = width
            down.append(nn.MaxPool2d(2))
        up: list[nn.Module] = [nn.Conv2d(7, last, 1)]
        for k, stage in enumerate(_VGG16[::-1]):
            up.append(nn.Upsample(scale_factor=2))
            # The last convolution of a stage has the width of the next stage.
            widths = [*stage[1:], _VGG16[::-1][k + 1][0] if k + 1 < len(_VGG16) else stage[-1]]
            for width in widths:
                up += [nn.Conv2d(last, width, 3, padding=1), nn.ReLU()]
                last = width
        self.encoder = nn.Sequential(*down, nn.Conv2d(512, 7, 1))
        self.decoder = nn.Sequential(*up, nn.Conv2d(last, 3, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class DenseAutoencoder(Autoencoder):
    """Two layers of 1000 units in encoder and decoder and a linear latent, with or without convolutions around them.

    Parameters
    ----------
    side : int
        Side of the images, a multiple of 8.
    code : int
        Length of the latent vector.
    convolutional : bool
        Whether there are three strided convolutions before and after the layers.
    """

    def __init__(self, side: int, code: int, *, convolutional: bool) -> None:
        super().__init__()
        cells = side // 8
        flat = 64 * cells * cells if convolutional else 3 * side * side
        front: list[nn.Module] = []
        back: list[nn.Module] = []
        if convolutional:
            for wide_in, wide_out in ((3, 32), (32, 64), (64, 64)):
                front += [nn.Conv2d(wide_in, wide_out, 4, 2, 1), nn.BatchNorm2d(wide_out), nn.ReLU()]
            back = [nn.Unflatten(1, (64, cells, cells)), nn.ReLU()]
            for wide_in, wide_out in ((64, 64), (64, 32)):
                back += [nn.ConvTranspose2d(wide_in, wide_out, 4, 2, 1), nn.ReLU()]
            back.append(nn.ConvTranspose2d(32, 3, 4, 2, 1))
        else:
            back = [nn.Unflatten(1, (3, side, side))]
        self.encoder = nn.Sequential(
            *front, nn.Flatten(), nn.Linear(flat, 1000), nn.BatchNorm1d(1000), nn.ReLU(), nn.Linear(1000, 1000),
            nn.BatchNorm1d(1000), nn.ReLU(), nn.Linear(1000, code),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(code, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, flat), *back
        )


def critic(code: int) -> nn.Module:
    """Return a critic of latent vectors (B, code): two layers of 1000 units and one logit."""
    return nn.Sequential(nn.Linear(code, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 1))


def shrink(pixels: Tensor, side: int) -> Tensor:
    """Return pixels (B, 3, S, S) resized to ``side`` with an antialiasing filter, unchanged if S is ``side``."""
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
