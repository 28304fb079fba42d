"""Texture statistics of haematoxylin, eosin and differences of colours, as one batched module without weights.

Papers: Ruifrok & Johnston 2001 (colour deconvolution); Lindeberg 1998, doi:10.1023/A:1008045108935 (scale-normalised
derivatives); Ojala et al. 2002, doi:10.1109/TPAMI.2002.1017623 (uniform local binary patterns).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from skimage.color import hed_from_rgb
from torch import Tensor, nn

__all__ = ["TextureStatistics", "window_moments"]

_SIGMAS_PX = (1, 2, 4, 8)
_RADII_PX = (1, 2, 4)
_NEIGHBOURS = 8
_PLANES = 5
_DARKEST = 1e-6
_COMPRESSION = 10.0
_GREY_LEVEL = 1 / 255
# In deviations of the plane: differences below it are noise of flat background, which would otherwise fill the histograms.
_FLAT = 0.02


class TextureStatistics(nn.Module):
    """Moments of blob and edge responses at four scales, and histograms of local binary patterns at three radii.

    Of five planes: haematoxylin, eosin, R − G, G − B and R − B, each z-scored over the tile, so that a paler or darker stain
    gives nearly the same statistics. The differences weigh bright tissue, optical density weighs dark nuclei.

    Parameters
    ----------
    tile_px : int
        Side S of the tiles.
    windows : int
        1: statistics of the whole tile. n: of n x n windows of 2 S / (n + 1) pixels, which overlap by half.
    """

    unmix: Tensor
    filters: Tensor
    dimensions = _PLANES * (len(_SIGMAS_PX) * 8 + len(_RADII_PX) * (_NEIGHBOURS + 2))

    def __init__(self, tile_px: int, windows: int = 1) -> None:
        super().__init__()
        self.windows = windows
        # What the package ships is float64 and read-only.
        self.register_buffer("unmix", torch.tensor(hed_from_rgb[:, :2].copy(), dtype=torch.float32), persistent=False)
        filters = torch.stack([_derivatives(tile_px, sigma) for sigma in _SIGMAS_PX])
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the statistics of images (B, S, S, 3) uint8: (B, dimensions) float32, of windows (B, dimensions, n, n)."""
        planes = torch.cat([self.stains(images), differences(images)], 1).flatten(0, 1)
        parts = []
        for filters, sigma in zip(self.filters, _SIGMAS_PX, strict=True):
            blobs, edges = _responses(planes, filters, sigma)
            parts += [self._moments(blobs), self._moments(edges)]
        parts += [self._patterns(planes, radius) for radius in _RADII_PX]
        values = torch.cat(parts, 1).reshape(len(images), self.dimensions, *parts[0].shape[2:])
        # Skewness and kurtosis have long tails, which a covariance does not bear.
        return values.sign() * (_COMPRESSION * values.abs()).log1p()

    def _moments(self, values: Tensor) -> Tensor:
        return _moments(values) if self.windows == 1 else window_moments(values, self.windows, 4)

    def _patterns(self, planes: Tensor, radius: int) -> Tensor:
        code = _codes(planes, radius)
        if self.windows == 1:
            return torch.stack([(code == value).float().mean((1, 2)) for value in range(_NEIGHBOURS + 2)], 1)
        return torch.cat([_window_means((code == value).float(), self.windows) for value in range(_NEIGHBOURS + 2)], 1)

    def stains(self, images: Tensor) -> Tensor:
        """Return haematoxylin and eosin (B, 2, S, S), each with mean 0 and deviation 1 over the tile."""
        rgb = (images.float() / 255).clamp_min(_DARKEST)
        density = ((rgb.log() / math.log(_DARKEST)) @ self.unmix).clamp_min(0).permute(0, 3, 1, 2)
        deviation, mean = torch.std_mean(density, dim=(2, 3), keepdim=True)
        return ((density - mean) / (deviation + 1e-6)).contiguous()


def differences(images: Tensor) -> Tensor:
    """Return R − G, G − B and R − B (B, 3, S, S) of images (B, S, S, 3) uint8, each with mean 0 and deviation 1 over the tile.

    What varies by less than a grey level is left small: it is noise of compression.
    """
    red, green, blue = (images.float() / 255).unbind(3)
    planes = torch.stack([red - green, green - blue, red - blue], 1)
    deviation, mean = torch.std_mean(planes, dim=(2, 3), keepdim=True)
    return ((planes - mean) / (deviation + _GREY_LEVEL)).contiguous()


def _derivatives(side: int, sigma: float) -> Tensor:
    """Return matrices (3, S, S) that smooth a line of S pixels, mirrored at its ends, or give its 1st or 2nd derivative.

    A product of matrices is many times faster on a CPU than a convolution of one channel with a long kernel.
    """
    radius = math.ceil(4 * sigma)
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    gauss = torch.exp(-(x**2) / (2 * sigma**2))
    gauss = gauss / gauss.sum()
    second = (x**2 / sigma**4 - 1 / sigma**2) * gauss
    kernels = torch.stack([gauss, x / sigma**2 * gauss, second - second.mean()])
    at = (torch.arange(side)[:, None] + torch.arange(-radius, radius + 1)) % (2 * side)
    at = torch.minimum(at, 2 * side - 1 - at)
    matrices = torch.zeros(3, side, side, dtype=torch.float64)
    return matrices.scatter_add_(2, at.expand(3, -1, -1), kernels[:, None].expand(3, side, -1)).float()


def _responses(planes: Tensor, filters: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Return scale-normalised Laplacian of Gaussian and gradient magnitude of planes (N, S, S)."""
    smooth, first, second = filters
    along = planes @ smooth.T
    blobs = (second @ along + smooth @ (planes @ second.T)) * sigma**2
    edges = torch.hypot(first @ along, smooth @ (planes @ first.T)) * sigma
    return blobs, edges


def _moments(values: Tensor) -> Tensor:
    """Return mean, deviation, skewness and kurtosis of planes (N, S, S), (N, 4)."""
    deviation, mean = torch.std_mean(values, dim=(1, 2), keepdim=True)
    z = (values - mean) / (deviation + 1e-6)
    squared = z.square()
    return torch.stack([mean[:, 0, 0], deviation[:, 0, 0], (squared * z).mean((1, 2)), squared.square().mean((1, 2))], 1)


def _window_means(values: Tensor, windows: int) -> Tensor:
    """Return the means (N, 1, n, n) of planes (N, H, W) over windows that overlap by half."""
    over = [_averages(side, windows).to(values.device) for side in values.shape[1:]]
    return (over[0] @ (values @ over[1].T))[:, None]


@cache
def _averages(side: int, windows: int) -> Tensor:
    """Return the matrix (n, side) that averages a line over windows; a product is faster than pooling on a CPU."""
    edges = [round(k * side / (windows + 1)) for k in range(windows + 2)]
    matrix = torch.zeros(windows, side)
    for k in range(windows):
        matrix[k, edges[k] : edges[k + 2]] = 1 / (edges[k + 2] - edges[k])
    return matrix


def window_moments(values: Tensor, windows: int, order: int) -> Tensor:
    """Return mean, deviation and, for order 4, skewness and kurtosis over windows of planes (N, S, S), (N, order, n, n)."""
    deviation, mean = (v[:, None] for v in torch.std_mean(values, dim=(1, 2), keepdim=True))
    z = (values - mean[:, 0]) / (deviation[:, 0] + 1e-6)  # small numbers, of which fourth powers can be subtracted
    squared = z.square()
    a1, a2 = _window_means(z, windows), _window_means(squared, windows)
    spread = (a2 - a1.square()).clamp_min(0).sqrt()
    parts = [mean + (deviation + 1e-6) * a1, (deviation + 1e-6) * spread]
    if order == 4:
        a3, a4 = _window_means(squared * z, windows), _window_means(squared.square(), windows)
        safe = spread + 1e-3
        parts.append((a3 - 3 * a1 * a2 + 2 * a1**3) / safe**3)
        parts.append((a4 - 4 * a1 * a3 + 6 * a1.square() * a2 - 3 * a1**4) / safe**4)
    return torch.cat(parts, 1)


def _codes(planes: Tensor, radius: int) -> Tensor:
    """Return the uniform rotation-invariant binary patterns (N, h, w) of planes: bits set, or one more for the others."""
    n = planes.shape[-1] - 2 * radius
    centre = planes[:, radius : radius + n, radius : radius + n] + _FLAT
    bits = []
    for k in range(_NEIGHBOURS):
        angle = 2 * math.pi * k / _NEIGHBOURS
        y, x = (round(radius * (1 + f(angle)), 6) for f in (math.sin, math.cos))
        bits.append(_shifted(planes, y, x, n) > centre)
    changes = sum((bit ^ bits[k - 1]).byte() for k, bit in enumerate(bits))
    return torch.where(changes <= 2, sum(bit.byte() for bit in bits), _NEIGHBOURS + 1)  # type: ignore[arg-type]


def _shifted(planes: Tensor, y: float, x: float, n: int) -> Tensor:
    """Return the (N, n, n) window whose corner lies at (y, x), interpolated bilinearly."""
    y0, x0 = int(y), int(x)
    window: Tensor | None = None
    for dy, wy in ((0, 1 - (y - y0)), (1, y - y0)):
        for dx, wx in ((0, 1 - (x - x0)), (1, x - x0)):
            if wy * wx > 0:
                part = planes[:, y0 + dy : y0 + dy + n, x0 + dx : x0 + dx + n] * (wy * wx)
                window = part if window is None else window + part
    assert window is not None
    return window
