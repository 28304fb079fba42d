"""Texture statistics of haematoxylin, eosin and colour differences, as one batched module without weights.

Papers: Ruifrok & Johnston 2001 (colour deconvolution); Lindeberg 1998, doi:10.1023/A:1008045108935 (scale-normalised
derivatives); Ojala et al. 2002, doi:10.1109/TPAMI.2002.1017623 (uniform local binary patterns).
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import torch
from skimage.color import hed_from_rgb
from torch import Tensor, nn

__all__ = ["TextureStatistics", "window_means", "window_moments"]

_SIGMAS_PX = (1, 2, 4, 8)
_RADII_PX = (1, 2, 4)
_NEIGHBOURS = 8
_PLANES = 5
_DARKEST = 1e-6
_COMPRESSION = 10.0
_GREY_LEVEL = 1 / 255
# In deviations of the plane: smaller differences are noise of the background and would fill the histograms.
_FLAT = 0.02
# Elements per intermediate result on a CPU, 2 MB, so that it stays in the cache until it is read again.
_AT_ONCE = 2**19
_BAND = 32
# Share of the tile's deviation below which fourth powers are only rounding errors.
_FLAT_WINDOW = 0.03


class TextureStatistics(nn.Module):
    """Moments of blob and edge responses at four scales, and histograms of local binary patterns at three radii.

    They are computed of five planes: haematoxylin, eosin, R − G, G − B and R − B, each z-scored over the tile, so that a paler
    or darker stain has nearly the same statistics. Colour differences respond to bright tissue, optical density to dark nuclei.

    Parameters
    ----------
    tile_px : int
        Side S of the tiles.
    windows : int
        1 computes statistics of the whole tile, n those of n x n windows of 2 S / (n + 1) pixels that overlap by half.
    """

    unmix: Tensor
    filters: Tensor
    patterns: Tensor
    dimensions = _PLANES * (len(_SIGMAS_PX) * 8 + len(_RADII_PX) * (_NEIGHBOURS + 2))

    def __init__(self, tile_px: int, windows: int = 1) -> None:
        super().__init__()
        self.windows = windows
        self._at_once = max(1, _AT_ONCE // (_PLANES * tile_px**2))
        # scikit-image's array is float64 and read-only.
        self.register_buffer("unmix", torch.tensor(hed_from_rgb[:, :2].copy(), dtype=torch.float32), persistent=False)
        filters = torch.stack([_derivatives(tile_px, sigma) for sigma in _SIGMAS_PX])
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("patterns", _patterns(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the statistics of images (B, S, S, 3) uint8: (B, dimensions) float32, of windows (B, dimensions, n, n)."""
        at_once = self._at_once if images.device.type == "cpu" else max(1, len(images))
        found = torch.cat([self._statistics(part) for part in torch.split(images, at_once)])
        return found[..., 0, 0] if self.windows == 1 else found

    def _statistics(self, images: Tensor) -> Tensor:
        planes = torch.cat([self.stains(images), differences(images)], 1).flatten(0, 1)
        parts = []
        for filters, sigma in zip(self.filters, _SIGMAS_PX, strict=True):
            parts += [window_moments(response, self.windows, 4) for response in _responses(planes, filters, sigma)]
        parts += [_window_shares(_codes(planes, radius), self.patterns, self.windows) for radius in _RADII_PX]
        values = torch.cat(parts, 1).reshape(len(images), self.dimensions, self.windows, self.windows)
        # Skewness and kurtosis have long tails, which distort a covariance.
        return values.sign() * (_COMPRESSION * values.abs()).log1p()

    def stains(self, images: Tensor) -> Tensor:
        """Return haematoxylin and eosin (B, 2, S, S), each with mean 0 and deviation 1 over the tile."""
        density = self.densities(images)
        deviation, mean = torch.std_mean(density, dim=(2, 3), keepdim=True)
        return ((density - mean) / (deviation + 1e-6)).contiguous()

    def densities(self, images: Tensor) -> Tensor:
        """Return haematoxylin and eosin densities (B, 2, S, S), about 0 to 0.2, as scikit-image's ``rgb2hed`` computes them."""
        rgb = (images.float() / 255).clamp_min(_DARKEST)
        return ((rgb.log() / math.log(_DARKEST)) @ self.unmix).clamp_min(0).permute(0, 3, 1, 2)


def differences(images: Tensor) -> Tensor:
    """Return R − G, G − B and R − B (B, 3, S, S) of images (B, S, S, 3) uint8, each with mean 0 and deviation 1 over the tile.

    Planes that vary by less than a grey level stay small: they are noise of compression.
    """
    red, green, blue = (images.float() / 255).unbind(3)
    planes = torch.stack([red - green, green - blue, red - blue], 1)
    deviation, mean = torch.std_mean(planes, dim=(2, 3), keepdim=True)
    return ((planes - mean) / (deviation + _GREY_LEVEL)).contiguous()


def _derivatives(side: int, sigma: float) -> Tensor:
    """Return matrices (3, S, S) that smooth a line of S pixels, reflected at its ends, or compute its 1st or 2nd derivative.

    On a CPU a matrix product is many times faster than the convolution of one channel with a long kernel.
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
    n, side, _ = planes.shape
    lines, bands = planes.reshape(n * side, side), _bands(side, math.ceil(4 * sigma))
    along = planes.new_empty(3, n * side, side)
    for out, reached in bands:
        for k in range(3):
            along[k, :, out] = lines[:, reached] @ filters[k, out, reached].T
    smooth, first, second = along.reshape(3, n, side, side)
    blobs, edges = torch.empty_like(planes), torch.empty_like(planes)
    for out, reached in bands:
        over = filters[:, out, reached]
        blobs[:, out] = over[2] @ smooth[:, reached] + over[0] @ second[:, reached]
        edges[:, out] = torch.hypot(over[1] @ smooth[:, reached], over[0] @ first[:, reached])
    return blobs.mul_(sigma**2), edges.mul_(sigma)


@cache
def _bands(side: int, reach: int) -> list[tuple[slice, slice]]:
    """Return parts of a line and the range that a filter uses for each; elsewhere its matrix is 0 and is not multiplied."""
    edges = [*range(0, side, _BAND), side]
    return [(slice(a, b), slice(max(0, a - reach), min(side, b + reach))) for a, b in pairwise(edges)]


@cache
def _edges(side: int, windows: int) -> list[int]:
    """Return the starts of the blocks of a line and the end of the last; a window has two blocks, a single window has one."""
    blocks = windows + 1 if windows > 1 else 1
    return [round(k * side / blocks) for k in range(blocks + 1)]


@cache
def _averages(side: int, windows: int, device: torch.device) -> Tensor:
    """Return the matrix (n, side) that averages a line over windows; on a CPU a product is faster than pooling."""
    edges = _edges(side, windows)
    with torch.inference_mode(mode=False):  # it may be used in training later
        matrix = torch.zeros(windows, side)
        for k in range(windows):
            begin, end = edges[k], edges[min(k + 2, len(edges) - 1)]
            matrix[k, begin:end] = 1 / (end - begin)
        return matrix.to(device)


def window_means(values: Tensor, windows: int) -> Tensor:
    """Return the means (N, n, n) of planes (N, H, W) over n x n windows that overlap by half."""
    over = [_averages(side, windows, values.device) for side in values.shape[1:]]
    return over[0].expand(len(values), -1, -1) @ values @ over[1].T


def window_moments(values: Tensor, windows: int, order: int) -> Tensor:
    """Return mean, deviation and, for order 4, skewness and kurtosis over windows of planes (N, S, S), (N, order, n, n)."""
    mean = values.mean((1, 2), keepdim=True)
    centred = values - mean  # small numbers, whose fourth powers can be subtracted accurately
    squared = centred.square()
    a1, a2 = window_means(centred, windows), window_means(squared, windows)
    deviation = (a2 - a1.square()).clamp_min(0).sqrt()
    parts = [mean + a1, deviation]
    if order == 4:
        a3, a4 = window_means(centred.mul_(squared), windows), window_means(squared.square_(), windows)
        scale = torch.maximum(deviation, _FLAT_WINDOW * a2.mean((1, 2), keepdim=True).sqrt()) + 1e-6
        parts.append((a3 - 3 * a1 * a2 + 2 * a1**3) / scale**3)
        parts.append((a4 - 4 * a1 * a3 + 6 * a1.square() * a2 - 3 * a1**4) / scale**4)
    return torch.stack(parts, 1)


def _codes(planes: Tensor, radius: int) -> Tensor:
    """Return the binary patterns (N, h, w) uint8 of planes: one bit for each neighbour that is brighter than the centre."""
    n = planes.shape[-1] - 2 * radius
    near, far = radius * (1 - math.sqrt(0.5)), radius * (1 + math.sqrt(0.5))
    left, right = _between(planes, 2, near, n), _between(planes, 2, far, n)
    middle = slice(radius, radius + n)
    ring = (
        planes[:, middle, 2 * radius :],
        _between(right, 1, far, n),
        planes[:, 2 * radius :, middle],
        _between(left, 1, far, n),
        planes[:, middle, :n],
        _between(left, 1, near, n),
        planes[:, :n, middle],
        _between(right, 1, near, n),
    )
    centre = planes[:, middle, middle] + _FLAT
    codes = torch.zeros(centre.shape, dtype=torch.uint8, device=planes.device)
    for k, neighbour in enumerate(ring):
        codes |= (neighbour > centre).byte() << k
    return codes


def _between(planes: Tensor, dim: int, start: float, n: int) -> Tensor:
    """Return n positions along a dimension from a fractional start, interpolated linearly."""
    first = int(start)
    return torch.lerp(planes.narrow(dim, first, n), planes.narrow(dim, first + 1, n), start - first)


def _patterns() -> Tensor:
    """Return the kind of each binary pattern as one-hot rows (256, 10): the number of set bits if they are adjacent, or 9."""
    kinds = torch.zeros(2**_NEIGHBOURS, _NEIGHBOURS + 2)
    for code in range(2**_NEIGHBOURS):
        bits = [code >> k & 1 for k in range(_NEIGHBOURS)]
        changes = sum(bit != bits[k - 1] for k, bit in enumerate(bits))
        kinds[code, sum(bits) if changes <= 2 else _NEIGHBOURS + 1] = 1
    return kinds


def _window_shares(codes: Tensor, kinds: Tensor, windows: int) -> Tensor:
    """Return the share (N, K, n, n) of each kind (256, K) of the codes (N, S, S) uint8 in windows that overlap by half."""
    edges = torch.tensor(_edges(codes.shape[1], windows), device=codes.device)
    blocks = len(edges) - 1
    line = torch.bucketize(torch.arange(codes.shape[1], device=codes.device), edges[1:-1], right=True)
    block = line[:, None] * blocks + line + torch.arange(len(codes), device=codes.device)[:, None, None] * blocks**2
    bins = block.int().mul_(len(kinds)) + codes
    counts = torch.bincount(bins.flatten(), minlength=len(codes) * blocks**2 * len(kinds))
    shares = counts.reshape(-1, blocks, blocks, len(kinds)).float() @ kinds
    for dim in (1, 2):
        if windows > 1:
            shares = shares.narrow(dim, 0, windows) + shares.narrow(dim, 1, windows)
    return (shares / shares.sum(3, keepdim=True)).movedim(3, 1)
