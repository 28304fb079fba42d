"""Classifiers of tiles: a body that computes a map of features, and a head that computes one logit per class.

Papers: Veeling et al. 2018 (arXiv:1806.03962, PatchCamelyon, whose labels describe the centre); Simonyan & Zisserman 2014
(arXiv:1409.1556, VGG); Chollet 2016 (arXiv:1610.02357, separable convolutions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_histoad.networks.fitted_module import FittedModule
from napari_histoad.networks.texture import TextureStatistics, window_means, window_moments

__all__ = [
    "MEAN",
    "STD",
    "KernelHead",
    "TextureBody",
    "TileNetwork",
    "TokensToMap",
    "base_cnn",
    "body_map",
    "pooled_head",
    "separable_cnn",
    "texture_network",
    "vggnet",
]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation by which pixels in [0, 1] are standardised, as for most of timm's weights."""


class _CentreAttention(nn.Module):
    """Multiplies a map of features by a Gaussian around its centre; its width is learnt and its mean is 1."""

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
        From (B, C, S, S) to a map of features (B, D, h, w).
    head : Module
        From the map to logits (B, K).
    attention : bool
        Weigh the centre of the map more than its edge, by a Gaussian of learnt width.
    fine : bool
        The body measures fine texture and is not trained: tiles are not resampled in training, and features are computed once.

    Attributes
    ----------
    fine : bool
    """

    def __init__(self, body: nn.Module, head: nn.Module, *, attention: bool = False, fine: bool = False) -> None:
        super().__init__()
        self.body, self.head, self.fine = body, head, fine
        self.attention: nn.Module = _CentreAttention() if attention else nn.Identity()
        if not fine:  # separable convolutions learn up to twice as fast with the channels last
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, stack: Tensor) -> Tensor:
        """Return logits (B, K)."""
        if not self.fine:
            stack = stack.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.attention(self.body(stack)))
        return logits


class TokensToMap(nn.Module):
    """Wraps a model whose output is tokens (B, P + h·w, D) or a channels-last map; the output is a map (B, D, h, w)."""

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
    """Return the shape (D, h, w) of a body's map of features."""
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


class TextureBody(nn.Module):
    """Statistics of texture and colour of the first three channels, and mean and deviation of all channels.

    Texture statistics do not depend on how dark or blue a tile is. Colour statistics do: they are the shares of pixels above
    nine levels of red, green, blue, haematoxylin and eosin. All are computed in 3 x 3 windows of half the side that overlap by
    half, because a class is often only in a part of a tile. Tiles below 64 px are one window.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.windows = 3 if side >= _LEAST_DIVIDED else 1
        self.statistics = TextureStatistics(side, self.windows)
        self.width = TextureStatistics.dimensions + _COLOURS * len(_LEVELS) + 2 * channels
        self.scale = nn.BatchNorm2d(self.width, affine=False, momentum=None)  # the mean of all batches
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, stack: Tensor) -> Tensor:
        """Return the statistics, standardised over the training tiles, as a map (B, D, 3, 3) or (B, D, 1, 1)."""
        return self.scaled(self.measure(stack))

    def scaled(self, measured: Tensor) -> Tensor:
        """Return statistics from `measure`, standardised over the training tiles."""
        scaled: Tensor = self.scale(measured)
        return scaled.clamp(-_FARTHEST, _FARTHEST)

    def measure(self, stack: Tensor) -> Tensor:
        """Return the statistics before standardisation, in the shape of the map."""
        n = self.windows
        with torch.autocast(stack.device.type, enabled=False):  # fourth powers
            stack = stack.float()
            pixels = (stack[:, :3] * self.std + self.mean).clamp(0, 1)
            images = (255 * pixels).movedim(1, 3)
            colours = torch.cat([pixels, _DENSITY * self.statistics.densities(images)], 1).flatten(0, 1)
            parts = [self.statistics(images)]
            # A level is a ramp, not a step, so that a little more stain changes little.
            parts += [window_means((_SOFT * (colours - level) + 0.5).clamp_(0, 1), n) for level in _LEVELS]
            parts.append(window_moments(stack.flatten(0, 1), n, 2))
        return torch.cat([part.reshape(len(stack), -1, n, n) for part in parts], 1)


_LEAST_DIVIDED = 64
_COLOURS = 5
_LEVELS = tuple(k / 10 for k in range(1, 10))
_SOFT = 10.0
_DENSITY = 5.0
"""Scales optical densities to the range of the levels."""
_LINEAR = 0.3
_FARTHEST = 8.0
"""In deviations; larger values carry no more information."""


class KernelHead(FittedModule):
    """A support vector machine, each class against the rest; fitted in closed form.

    The kernel is ``exp(-|x - y|² / D) + 0.3 x·y / D``. The first term separates similar tiles, the second one those far from
    all training tiles, which would all get the same probability without it.

    It has no support vectors until `adopt` is called or a state is loaded.

    Parameters
    ----------
    width : int
        Number of features per cell, D.
    classes : int

    Attributes
    ----------
    classes : int
    """

    support: Tensor
    weights: Tensor
    bias: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.hold("support", torch.zeros(0, width), free=(0,))
        self.hold("weights", torch.zeros(0, classes), free=(0,))
        self.hold("bias", torch.zeros(classes))

    def adopt(self, support: Tensor, weights: Tensor, bias: Tensor) -> None:
        """Set support vectors (N, D), their weights (N, K) and biases (K,), float32."""
        self.keep(support=support, weights=weights, bias=bias)

    @staticmethod
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        """Return the kernel (B, N) of cells (B, D) and (N, D)."""
        return torch.exp(-torch.cdist(x, y).square() / x.shape[1]) + _LINEAR * x @ y.T / x.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """Return the decision values (B, K) of a map of features (B, D, h, w): the mean over its cells."""
        return self.cells(features).mean((2, 3))

    def cells(self, features: Tensor) -> Tensor:
        """Return the decision values (B, K, h, w) of each cell."""
        with torch.autocast(features.device.type, enabled=False):  # small differences of large numbers
            x = features.float().movedim(1, 3)
            distance = self.kernel(x.flatten(0, 2), self.support) @ self.weights + self.bias
            return distance.reshape(*x.shape[:3], self.classes).movedim(3, 1)

    def check_fit(self) -> None:
        if len(self.support) != len(self.weights):
            raise ValueError(f"{len(self.support)} support vectors have {len(self.weights)} weights")


def texture_network(channels: int, classes: int, side: int) -> TileNetwork:
    """Return a support vector machine on texture statistics, see `TextureStatistics`; for few tiles, and for CPUs.

    The first three channels must be the image.
    """
    body = TextureBody(channels, side)
    return TileNetwork(body, KernelHead(body.width, classes), fine=True)
