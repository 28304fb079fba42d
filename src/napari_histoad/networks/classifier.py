"""Classifiers of tiles: a body that gives a map of features, and a head that gives one number per class.

Papers: Veeling et al. 2018 (arXiv:1806.03962, PatchCamelyon, whose label speaks of the centre); Simonyan & Zisserman 2014
(arXiv:1409.1556, VGG); Chollet 2016 (arXiv:1610.02357, separable convolutions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["TileNetwork", "TokensToMap", "base_cnn", "body_map", "pooled_head", "separable_cnn", "vggnet"]


class _CentreAttention(nn.Module):
    """Weighs a map of features by a Gaussian around its centre whose width is learnt; the mean weight is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.log_width = nn.Parameter(torch.tensor(-0.7))

    def forward(self, features: Tensor) -> Tensor:
        y, x = (torch.linspace(-1, 1, n, device=features.device) for n in features.shape[2:])
        weight = torch.exp(-(y[:, None].square() + x.square()) / (2 * torch.exp(2 * self.log_width)))
        return features * (weight / weight.mean())


class TileNetwork(nn.Module):
    """A classifier of tiles.

    Parameters
    ----------
    body : Module
        (B, C, S, S) to a map of features (B, D, h, w).
    head : Module
        That map to logits (B, K).
    attention : bool
        Look at the centre more than at the rim, by a learnt measure.
    """

    def __init__(self, body: nn.Module, head: nn.Module, *, attention: bool = False) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.attention: nn.Module = _CentreAttention() if attention else nn.Identity()

    def forward(self, stack: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits: Tensor = self.head(self.attention(self.body(stack)))
        return logits


class TokensToMap(nn.Module):
    """A model that gives tokens (B, P + h·w, D) or a channels-last map, as a map (B, D, h, w)."""

    def __init__(self, model: nn.Module, prefix: int, width: int) -> None:
        super().__init__()
        self.model, self._prefix, self._width = model, prefix, width

    def forward(self, stack: Tensor) -> Tensor:
        out: Tensor = self.model(stack)
        if out.ndim == 4:
            return out if out.shape[1] == self._width else out.permute(0, 3, 1, 2)
        tokens = out[:, self._prefix :]
        n = round(tokens.shape[1] ** 0.5)
        return tokens.transpose(1, 2).reshape(len(out), -1, n, n)


def pooled_head(width: int, classes: int, hidden: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """Return global average pooling and one or two linear layers."""
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(hidden or width, classes))


def body_map(body: nn.Module, channels: int, side: int) -> tuple[int, int, int]:
    """Return the shape (D, h, w) of the map of features that a body gives."""
    training = body.training
    with torch.inference_mode():
        shape = body.eval()(torch.zeros(1, channels, side, side)).shape
    body.train(training)
    return int(shape[1]), int(shape[2]), int(shape[3])


def base_cnn(channels: int, classes: int, side: int, *, attention: bool = False, dropout: float = 0.0) -> TileNetwork:
    """Return three valid convolutions (32, 64, 128), each with ReLU and max-pooling, and a layer of 128.

    159,170 parameters for three channels, two classes and 32 px.
    """
    layers: list[nn.Module] = []
    for wide_in, wide_out in ((channels, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(wide_in, wide_out, 3), nn.ReLU(), nn.MaxPool2d(2)]
    body = nn.Sequential(*layers)
    cells = torch.Size(body_map(body, channels, side)).numel()
    head = nn.Sequential(nn.Flatten(), nn.Linear(cells, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, classes))
    return TileNetwork(body, head, attention=attention)


def vggnet(channels: int, classes: int, *, attention: bool = False) -> TileNetwork:
    """Return four times two convolutions with batch norm (32, 64, 128, 256), a layer of 512, and dropout 0.5.

    The last map is averaged to 4 x 4 first, so that the layer of 512 does not grow with the tile.
    """
    layers: list[nn.Module] = []
    wide_in = channels
    for wide_out in (32, 64, 128, 256):
        for _ in range(2):
            layers += [nn.Conv2d(wide_in, wide_out, 3, padding=1, bias=False), nn.BatchNorm2d(wide_out), nn.ReLU()]
            wide_in = wide_out
        layers.append(nn.MaxPool2d(2))
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * 256, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, classes)
    )
    return TileNetwork(nn.Sequential(*layers), head, attention=attention)


def separable_cnn(channels: int, classes: int, *, attention: bool = False) -> TileNetwork:
    """Return valid separable convolutions: 64, three times (32, 32, max-pooling), 32, 32; pooled, a layer of 256."""

    def separable(wide_in: int, wide_out: int) -> list[nn.Module]:
        return [nn.Conv2d(wide_in, wide_in, 3, groups=wide_in), nn.Conv2d(wide_in, wide_out, 1), nn.ReLU()]

    layers, wide = separable(channels, 64), 64
    for _ in range(3):
        layers += [*separable(wide, 32), *separable(32, 32), nn.MaxPool2d(2)]
        wide = 32
    layers += [*separable(32, 32), *separable(32, 32)]
    return TileNetwork(nn.Sequential(*layers), pooled_head(32, classes, hidden=256), attention=attention)
