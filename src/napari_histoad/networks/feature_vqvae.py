"""A VQ-VAE that reconstructs maps of features of a frozen encoder instead of pixels.

Papers: van den Oord et al. 2017 (arXiv:1711.00937, VQ-VAE); Shi et al. 2021 (arXiv:2012.07122, DFR: reconstruction of deep
features for anomaly segmentation).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_histoad.networks.vqvae import CodebookNetwork

__all__ = ["FeatureVqVae", "FeatureVqVaeOutput", "cell_features"]

_PICTURE_SCALE = 4
"""Side of the picture of a cell in pixels."""


class FeatureVqVaeOutput(NamedTuple):
    """Outputs for maps of features (B, C, h, w).

    Attributes
    ----------
    reconstruction : (B, C, h, w)
        Of the features.
    picture : (B, 3, 4 h, 4 w) in [0, 1]
        What the reconstructed features look like; no gradient flows from it into the rest.
    indices : (B, h, w) int64
        Rows of the codes in the codebook.
    loss : ()
        Codebook and commitment terms; 0 in evaluation.
    """

    reconstruction: Tensor
    picture: Tensor
    indices: Tensor
    loss: Tensor


class FeatureVqVae(CodebookNetwork):
    """conv1, conv3, conv1 to the code dimension, quantiser, and the mirror of it; beside it a small decoder to pixels.

    Parameters
    ----------
    channels : int
        Number of features C.
    width, code_dim, codebook_size : int
        Channels of the hidden layers, dimensions and number of the codes.
    quantizer : {"ema", "vq", "fsq"}
        See `CodebookNetwork`.
    """

    def __init__(
        self, channels: int, *, width: int = 128, code_dim: int = 32, codebook_size: int = 256, quantizer: str = "ema"
    ) -> None:
        super().__init__(quantizer, codebook_size, code_dim)
        self.encoder = _perceptron(channels, width, code_dim)
        self.decoder = _perceptron(code_dim, width, channels)
        self.painter = nn.Sequential(
            nn.Conv2d(channels, 64, 1), nn.GELU(), nn.Conv2d(64, 64, 3, padding=1), nn.GELU(),
            nn.Conv2d(64, 3 * _PICTURE_SCALE**2, 3, padding=1), nn.PixelShuffle(_PICTURE_SCALE),
        )  # fmt: skip

    def forward(self, features: Tensor) -> FeatureVqVaeOutput:
        """Return reconstruction, picture, codes and quantisation loss of standardised features (B, C, h, w)."""
        passed, _, index, loss = self.quantize(self.encoder(features))
        reconstruction = self.decoder(passed).float()
        picture = torch.sigmoid(self.painter(reconstruction.detach()).float())
        return FeatureVqVaeOutput(reconstruction, picture, index, loss)


def _perceptron(channels_in: int, width: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, width, 1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU(),
        nn.Conv2d(width, channels_out, 1),
    )  # fmt: skip


def cell_features(blocks: list[Tensor]) -> Tensor:
    """Return features (B, C, h, w) float32 of the cells of block 3: mean and deviation of blocks 1 and 2, and blocks 3 and 4.

    Parameters
    ----------
    blocks : list of (B, C, h, w) tensors
        Outputs of the first five blocks of `EfficientNetLite`; C is 320 in total.
    """
    side = blocks[3].shape[-1]
    parts = []
    for block in blocks[1:3]:
        values = block.float()
        mean = F.adaptive_avg_pool2d(values, side)
        parts += [mean, (F.adaptive_avg_pool2d(values.square(), side) - mean.square()).clamp_min(0).sqrt()]
    return torch.cat([*parts, blocks[3].float(), blocks[4].float()], 1)
