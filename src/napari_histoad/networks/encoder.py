"""Encoders of tiles: a small residual network with its self-supervised loss, and timm models.

Papers: He et al. 2015 (arXiv:1512.03385, ResNet), Chen et al. 2020 (arXiv:2002.05709, SimCLR), Tan & Le 2019
(arXiv:1905.11946, EfficientNet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_histoad.networks.autoencoder import shrink

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EfficientNetLite", "Encoder", "Features", "Projector", "TimmEncoder", "contrast"]

_ENLARGED_PX = 128


class Features(NamedTuple):
    """Features of a batch of B tiles.

    Attributes
    ----------
    tile : (B, D) float32
        Features of the whole tile.
    cells : (B, C, h, w) float32
        Features of its parts.
    """

    tile: Tensor
    cells: Tensor


class _Block(nn.Module):
    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(wide_in, wide_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(wide_out),
            nn.ReLU(),
            nn.Conv2d(wide_out, wide_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wide_out),
        )
        same = stride == 1 and wide_in == wide_out
        self.skip = nn.Identity() if same else nn.Conv2d(wide_in, wide_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


class Encoder(nn.Module):
    """Four stages of residual blocks; a cell covers 16 px of the tile.

    Parameters
    ----------
    width : int
        Channels of the first stage; the last has eight times as many.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.dimensions = widths[-1]
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(
            *[_Block(a, b, 1 if k == 0 else 2) for k, (a, b) in enumerate(zip([width, *widths[:-1]], widths, strict=True))]
        )

    def forward(self, pixels: Tensor) -> Features:
        """Return features of pixels (B, 3, S, S) in [0, 1]: mean and maximum over the cells, and the cells."""
        cells = self.stages(self.stem(pixels * 4 - 3))  # H&E is bright
        return Features(torch.cat([cells.mean((2, 3)), cells.amax((2, 3))], 1), cells)


class TimmEncoder(nn.Module):
    """A frozen timm model.

    Parameters
    ----------
    model : timm model without classifier
    mean, std : (3,) sequences of float
        Mean and deviation by which pixels were standardised at its training.
    side : int
        Input size in pixels.
    pooling : {"class+mean", "class", "mean"}
        Which tokens describe the tile: the class token, the mean of the patch tokens, or both; for a transformer without
        class token always their mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: Any, mean: Sequence[float], std: Sequence[float], side: int, *, pooling: str = "class+mean"
    ) -> None:
        super().__init__()
        self.model, self._side = model.eval().requires_grad_(requires_grad=False), side
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self._prefix = int(getattr(model, "num_prefix_tokens", 0))
        has_class = getattr(model, "cls_token", None) is not None
        self._pooled = [part for part in pooling.split("+") if part == "mean" or has_class] or ["mean"]

    def forward(self, pixels: Tensor) -> Features:
        """Return features of pixels (B, 3, S, S) in [0, 1]: class token and mean of the others, or the mean of maps."""
        out = self.model.forward_features((shrink(pixels, self._side) - self.mean) / self.std).float()
        if out.ndim == 4:
            cells = out if out.shape[1] == self.model.num_features else out.permute(0, 3, 1, 2)
            return Features(F.normalize(cells.mean((2, 3)), dim=1), cells)
        tokens = out[:, self._prefix :]
        n = round(tokens.shape[1] ** 0.5)
        parts = [out[:, 0] if part == "class" else tokens.mean(1) for part in self._pooled]
        return Features(F.normalize(torch.cat(parts, 1), dim=1), tokens.transpose(1, 2).reshape(len(out), -1, n, n))


class EfficientNetLite(nn.Module):
    """The first six blocks of a frozen EfficientNet-Lite0. The last block and the classifier are left out.

    Parameters
    ----------
    model : timm's EfficientNet-Lite0
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(model.conv_stem, model.bn1)
        self.stages = nn.ModuleList(list(model.blocks)[:6])
        self.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> EfficientNetLite:  # noqa: ARG002, FBT001, FBT002 - torch's signature
        """Return itself unchanged: the statistics of batch normalisation stay frozen while other modules are trained."""
        return super().train(mode=False)

    def blocks(self, pixels: Tensor, count: int = 6) -> list[Tensor]:
        """Return the outputs (B, C, h, w) of the first blocks; the others are not computed.

        Parameters
        ----------
        pixels : (B, 3, S, S) tensor in [0, 1]
            Tiles of fewer than 128 px are enlarged to 128 px.
        count : int
            Number of blocks, 1 to 6. They have 16, 24, 40, 80, 112 and 192 channels, and their sides are 1/2, 1/4, 1/8, 1/16,
            1/16 and 1/32 of the tile's, rounded up.
        """
        side = pixels.shape[-1]
        if side < _ENLARGED_PX:
            pixels = F.interpolate(pixels, size=(_ENLARGED_PX, _ENLARGED_PX), mode="bilinear", align_corners=False)
        x = self.stem(2 * pixels - 1)
        outputs = []
        for stage in self.stages[:count]:
            x = stage(x)
            outputs.append(x)
        return outputs

    def forward(self, pixels: Tensor) -> Features:
        """Return features of pixels (B, 3, S, S) in [0, 1]: mean and deviation of each block, and as cells blocks 3 and 4."""
        outputs = [output.float() for output in self.blocks(pixels)]
        pooled = [part for output in outputs for part in torch.std_mean(output, dim=(2, 3))]
        return Features(torch.cat(pooled, 1), torch.cat(outputs[3:5], 1))


class Projector(nn.Sequential):
    """Projection head of SimCLR: a small perceptron on the pooled features, only used in training."""

    def __init__(self, dimensions: int, width: int = 128) -> None:
        super().__init__(
            nn.Linear(dimensions, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.BatchNorm1d(width),
            nn.ReLU(), nn.Linear(width, width),
        )  # fmt: skip


def contrast(a: Tensor, b: Tensor, weights: Tensor | None = None, temperature: float = 0.2) -> dict[str, Tensor]:
    """Return SimCLR's loss of the projections (B, D) of two views, eq. 1, and how often the other view is the nearest.

    ``weights`` (B,) are the weights of the tiles.
    """
    z = F.normalize(torch.cat([a, b]).float(), dim=1)
    likeness = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    n = len(a)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    losses = F.cross_entropy(likeness, partner, reduction="none")
    loss = losses.mean() if weights is None else (losses * weights.repeat(2)).mean()
    return {"loss": loss, "accuracy": (likeness.argmax(1) == partner).float().mean()}
