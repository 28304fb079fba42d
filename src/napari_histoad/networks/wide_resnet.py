"""Wide residual network. Paper: Zagoruyko & Komodakis 2016 (arXiv:1605.07146)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WideResNet"]


class _Block(nn.Module):
    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(wide_in), nn.BatchNorm2d(wide_out)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, 1, 1, bias=False)
        self.skip = None if wide_in == wide_out and stride == 1 else nn.Conv2d(wide_in, wide_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        kept = x if self.skip is None else self.skip(active)
        return kept + self.conv2(F.relu(self.norm2(self.conv1(active))))  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """WRN-depth-widen: three groups of pre-activation blocks, the second and third of stride 2.

    Parameters
    ----------
    classes : int
    depth : int
        6 n + 4 for n blocks a group; 16 for WRN-16-8.
    widen : int
        Multiplies the widths 16, 32, 64.
    """

    def __init__(self, classes: int, depth: int = 16, widen: int = 8) -> None:
        super().__init__()
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        blocks: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
        for group in range(3):
            for n in range((depth - 4) // 6):
                first = n == 0
                stride = 2 if first and group else 1
                blocks.append(_Block(widths[group] if first else widths[group + 1], widths[group + 1], stride))
        self.body = nn.Sequential(*blocks, nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.dimensions = widths[-1]
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, classes) of pixels (B, 3, S, S) in [-1, 1]."""
        return self.head(self.body(pixels).mean((2, 3)))  # type: ignore[no-any-return]
