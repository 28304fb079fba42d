"""Stain normalisation: estimating the stains of a slide, and the colour table that converts them to those of another slide.

Papers: Macenko et al. 2009 (doi:10.1109/ISBI.2009.5193250); Vahadane et al. 2016 (doi:10.1109/TMI.2016.2529665); Reinhard et
al. 2001 (doi:10.1109/38.946629). Each maps colours to colours, whatever their position, so that one colour table applies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_histoad.errors import SettingsError
from napari_histoad.slide import ColourTable
from napari_histoad.tiles._grid import TileGrid
from napari_histoad.tiles._loader import TileLoader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.slide import Slide
    from napari_histoad.tiles._tissue import TissueMask

StainMethod = Literal["macenko", "vahadane", "reinhard"]

_DARKEST = 1 / 255
_GLASS, _TISSUE = 0.15, 0.35
"""Optical densities (natural logarithm): below the first a pixel is glass, as in Macenko et al.; above the second it is not."""
_ANGLE_PERCENT, _STRONG_PERCENT = 1.0, 99.0
_LEAST_PIXELS = 1000
_MOST_PIXELS = 100_000
_ROUNDS = 30
_SPARSITY = 0.1
_MOST_TILES = 32
_PIXELS_PER_TILE = _MOST_PIXELS // _MOST_TILES
_LEAST_ANGLE = np.deg2rad(5)
# Ruderman et al. 1998 as given by Reinhard: colours to cone responses, and their logarithms to lαβ.
_CONES = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_OPPONENTS = np.diag(1 / np.sqrt([3.0, 6.0, 2.0])) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])


@dataclass(frozen=True)
class Stain:
    """The stains of a slide, or of a set of tiles.

    Attributes
    ----------
    method : {"macenko", "vahadane", "reinhard"}
    values : tuple of float
        Macenko, Vahadane: the unit vectors of haematoxylin's and eosin's optical density in R, G, B, then the concentration of
        each in strongly stained pixels (8 numbers). Reinhard: mean and standard deviation of l, α, β over tissue (6 numbers).
    """

    method: StainMethod
    values: tuple[float, ...]

    @classmethod
    def of_pixels(cls, pixels: NDArray[np.uint8], method: StainMethod, where: str = "these tiles") -> Stain:
        """Estimate the stains of pixels (..., 3) uint8; glass is ignored.

        Raises
        ------
        SettingsError
            If there is too little tissue, or it has only one colour.
        """
        flat = pixels.reshape(-1, 3)
        rgb = flat[:: -(-len(flat) // _MOST_PIXELS) or 1] / 255
        density = _density(rgb)
        tissue = density.max(axis=1) > _TISSUE
        if tissue.sum() < _LEAST_PIXELS:
            msg = f"{where}: {int(tissue.sum())} stained pixels are too few to estimate the stains"
            raise SettingsError(msg, "give more tissue, or train without stain normalisation")
        if method == "reinhard":
            opponents = _opponents(rgb[tissue])
            deviation = opponents.std(axis=0)
            if deviation[0] <= 0 or deviation[1:].max() < _DARKEST / 10:
                raise _one_colour(where)
            return cls(method, (*opponents.mean(axis=0).tolist(), *deviation.tolist()))
        axes = (_macenko if method == "macenko" else _vahadane)(density[tissue])
        if np.arccos(np.clip(axes[0] @ axes[1], -1, 1)) < _LEAST_ANGLE:
            raise _one_colour(where)
        strong = np.percentile(density[tissue] @ np.linalg.pinv(axes), _STRONG_PERCENT, axis=0)
        if strong.min() <= 0:
            raise _one_colour(where)
        return cls(method, (*axes.ravel().tolist(), *strong.tolist()))

    @classmethod
    def of_slide(cls, slide: Slide, tissue: TissueMask, method: StainMethod, *, tile_px: int, mpp: float) -> Stain:
        """Estimate the stains of a slide from at most 32 tiles spread over its tissue, always the same ones.

        Raises
        ------
        SettingsError
            As for `of_pixels`.
        """
        grid = TileGrid.cover(slide.shape, slide.require_mpp(), tile_px=tile_px, mpp=mpp, stride_px=tile_px).on_tissue(tissue)
        index = np.unique(np.linspace(0, max(0, len(grid) - 1), min(_MOST_TILES, len(grid))).astype(np.int64))
        pixels = [_some(batch.images[~batch.failed]) for batch in TileLoader(slide, grid, index=index)]
        return cls.of_pixels(np.concatenate(pixels or [np.empty((0, 3), np.uint8)]), method, slide.path.name)

    @classmethod
    def between(cls, stains: Sequence[Stain]) -> Stain:
        """Return the median of several slides' stains, as the target for all of them."""
        values = np.median([stain.values for stain in stains], axis=0)
        if stains[0].method != "reinhard":
            axes = values[:6].reshape(2, 3)
            values[:6] = (axes / np.linalg.norm(axes, axis=1, keepdims=True)).ravel()
        return cls(stains[0].method, tuple(values.tolist()))

    def to(self, target: Stain) -> ColourTable:
        """Return the colour table that converts these stains to those of ``target``; glass is not changed."""
        if target.method != self.method:
            raise ValueError(f"stains estimated by {self.method} and by {target.method} cannot be compared")
        recolour = _shifted if self.method == "reinhard" else _remixed

        def faded(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
            """Blend the change out towards the brightness of glass, which would be tinted otherwise."""
            darkest = _density(rgb).max(axis=-1, keepdims=True)
            weight = np.clip((darkest - _GLASS) / (_TISSUE - _GLASS), 0, 1)
            mixed: NDArray[np.float64] = recolour(rgb, self, target) * weight + rgb * (1 - weight)
            return mixed

        return ColourTable.of(faded)


def _remixed(rgb: NDArray[np.float64], ours: Stain, theirs: Stain) -> NDArray[np.float64]:
    """Return colours (..., 3) in [0, 1] whose concentrations are ours, scaled, and whose stains are theirs."""
    a, b = np.array(ours.values), np.array(theirs.values)
    amounts = np.maximum(_density(rgb) @ np.linalg.pinv(a[:6].reshape(2, 3)), 0) * (b[6:] / a[6:])
    remixed: NDArray[np.float64] = np.exp(-amounts @ b[:6].reshape(2, 3))
    return remixed


def _shifted(rgb: NDArray[np.float64], ours: Stain, theirs: Stain) -> NDArray[np.float64]:
    """Return colours (..., 3) in [0, 1] shifted to the mean and standard deviation of their l, α, β."""
    a, b = np.array(ours.values), np.array(theirs.values)
    opponents = (_opponents(rgb) - a[:3]) * (b[3:] / np.maximum(a[3:], _DARKEST)) + b[:3]
    cones = np.exp(opponents @ np.linalg.inv(_OPPONENTS.T))
    shifted: NDArray[np.float64] = np.clip(cones @ np.linalg.inv(_CONES.T), 0, 1)
    return shifted


def _some(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return every k-th pixel of each tile, (N, 3), so that there are enough pixels of all tiles together."""
    pixels = images.reshape(len(images), -1, 3)
    return pixels[:, :: max(1, pixels.shape[1] // _PIXELS_PER_TILE)].reshape(-1, 3)


def _density(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return optical densities of colours in [0, 1]."""
    return -np.log(np.maximum(rgb, _DARKEST))


def _opponents(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return l, α, β of colours in [0, 1]."""
    logs: NDArray[np.float64] = np.log(np.maximum(rgb, _DARKEST) @ _CONES.T) @ _OPPONENTS.T
    return logs


def _macenko(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the extreme directions (2, 3) of densities (N, 3) in their plane of largest variance, haematoxylin first."""
    plane = np.linalg.eigh(np.cov(density.T))[1][:, 1:]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    x, y = (density @ plane).T[::-1]
    extremes = np.percentile(np.arctan2(y, x), [_ANGLE_PERCENT, 100 - _ANGLE_PERCENT])
    axes: NDArray[np.float64] = np.stack([np.cos(extremes), np.sin(extremes)], 1) @ plane.T[::-1]
    return _haematoxylin_first(axes)


def _vahadane(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return two non-negative axes (2, 3) that explain densities (N, 3) sparsely, haematoxylin first.

    Their equation 5: sparse codes and axes are updated in turn. For two unit vectors both have closed forms, which are much
    faster than a general solver.
    """
    axes = _macenko(density)
    for _ in range(_ROUNDS):
        b = density @ axes.T - _SPARSITY
        codes = b @ np.linalg.inv(axes @ axes.T)
        alone = np.maximum(b, 0) * (b == b.max(axis=1, keepdims=True))
        codes = np.where((codes >= 0).all(axis=1, keepdims=True), codes, alone)
        gram, wanted = codes.T @ codes, codes.T @ density
        for k in range(2):  # Mairal et al. 2010, algorithm 2
            axes[k] = np.maximum(axes[k] + (wanted[k] - gram[k] @ axes) / max(gram[k, k], _DARKEST), 0)
            axes[k] /= max(np.linalg.norm(axes[k]), _DARKEST)
        if np.arccos(np.clip(axes[0] @ axes[1], -1, 1)) < _LEAST_ANGLE:
            break
    return _haematoxylin_first(axes)


def _haematoxylin_first(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return unit vectors, first the one that absorbs more red, which is haematoxylin."""
    axes = axes.clip(0)
    axes = axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-12)
    return axes if axes[0, 0] >= axes[1, 0] else axes[::-1]


def _one_colour(where: str) -> SettingsError:
    return SettingsError(
        f"{where}: its tissue has only one colour, so its stains cannot be told apart", "train without stain normalisation"
    )
