"""Finding tissue in a coarse overview of the slide.

Haematoxylin and eosin both absorb green more than red or blue; dust and shadows absorb all channels equally; ink absorbs red
most. The excess of green's optical density over that of the other channels thus separates tissue, even pale tissue, from the
rest (Ruifrok & Johnston 2001, optical density; Otsu 1979, threshold).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import shapely
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely.geometry import Polygon, box
from skimage.filters import threshold_otsu
from skimage.morphology import disk, remove_small_holes, remove_small_objects

from napari_histoad.errors import EmptyTissueError, RegionError, SettingsError
from napari_histoad.system.host import give_back_freed_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histoad.regions import Region
    from napari_histoad.slide import Slide

T = TypeVar("T", bound=np.generic)

TISSUE_FROM = ("found", "regions")
"""Where the tissue mask comes from: found by colour, or the outlines."""

_STAND_IN = "or outline the tissue and use the outlines as the tissue mask (in the terminal: --tissue regions)"

_MASK_UM = 8.0
_MAX_MASK_PX = 2048
_FAINTEST_CHROMA = 0.02
_GREY_CHROMA = 0.15
_INK_RED = 1.1
_DARK_FIELD = 60
_BLUR_PX = 0.7
_BLUR_REACH = 3  # rows on each side that the blur needs: scipy's default, four sigma
_STRIP_ROWS = 128
_CLOSING_UM = 100.0
_SPECK_UM2 = 150.0**2
_HOLE_UM2 = 250.0**2


@dataclass(frozen=True)
class TissueMask:
    """The tissue mask of a slide.

    Attributes
    ----------
    mask : (h, w) bool
        True on tissue.
    scale_yx : tuple[float, float]
        Level-0 pixels per mask pixel, per axis.
    """

    mask: NDArray[np.bool_]
    scale_yx: tuple[float, float]

    @cached_property
    def _integral(self) -> NDArray[np.int32]:
        return integral_of(self.mask.astype(np.int32))

    def fraction(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the tissue fraction of level-0 boxes, exact to a fraction of a mask pixel.

        Parameters
        ----------
        boxes : (N, 4) float64
            (y0, x0, y1, x1) in level-0 pixels; outside the slide there is no tissue.

        Returns
        -------
        (N,) float64 in [0, 1]
        """
        inside = box_sums(self._integral, self.scale_yx, boxes)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (self.scale_yx[0] * self.scale_yx[1])
        return np.clip(inside / area, 0, 1)

    def area_mm2(self, mpp: float) -> float:
        """Return the tissue area in mm²."""
        return float(self.mask.sum() * self.scale_yx[0] * self.scale_yx[1] * mpp**2 / 1e6)


def integral_of(values: NDArray[T]) -> NDArray[T]:
    """Return the integral image (h + 1, w + 1, …) of values (h, w, …), for `box_sums`."""
    integral = np.pad(values, ((1, 0), (1, 0), *[(0, 0)] * (values.ndim - 2)))
    integral.cumsum(0, out=integral)
    integral.cumsum(1, out=integral)
    return integral


def box_sums(integral: NDArray[Any], scale_yx: tuple[float, float], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums (N,) of a mask's values inside level-0 boxes (N, 4), exact to a fraction of a mask pixel."""
    h, w = integral.shape[0] - 1, integral.shape[1] - 1
    y = np.clip(boxes[:, (0, 2)] / scale_yx[0], 0, h)
    x = np.clip(boxes[:, (1, 3)] / scale_yx[1], 0, w)

    def at(row: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.float64]:
        # Bilinear interpolation of the integral image is exact for a mask that is constant inside a pixel.
        return ndimage.map_coordinates(integral, (row, column), np.float64, order=1, mode="nearest")  # type: ignore[no-any-return]

    return at(y[:, 1], x[:, 1]) - at(y[:, 0], x[:, 1]) - at(y[:, 1], x[:, 0]) + at(y[:, 0], x[:, 0])


def tissue_mask(slide: Slide, tissue_from: str = "found", regions: Sequence[Region] | None = None) -> TissueMask:
    """Return the tissue mask of a slide: found by colour, or with ``tissue_from="regions"`` the outlines.

    Raises
    ------
    SettingsError
        If outlines are requested but not given.
    EmptyTissueError, RegionError, MissingMppError
        See `find_tissue` and `regions_as_tissue`.
    """
    check_tissue_from(tissue_from, given=regions is not None)
    return find_tissue(slide) if tissue_from == "found" or regions is None else regions_as_tissue(slide, regions)


def check_tissue_from(tissue_from: str, *, given: bool) -> None:
    """Check the setting of where tissue comes from; ``given`` is whether there are outlines.

    Raises
    ------
    SettingsError
        If it is neither "found" nor "regions", or outlines are requested but not given.
    """
    if tissue_from not in TISSUE_FROM:
        raise SettingsError(f"tissue cannot come from {tissue_from!r}", f"choose {' or '.join(TISSUE_FROM)}")
    if tissue_from == "regions" and not given:
        raise SettingsError("outlines are to be the tissue mask, but none were given", "give outlines, or let tissue be found")


def regions_as_tissue(slide: Slide, regions: Sequence[Region]) -> TissueMask:
    """Return the outlines as the tissue mask, for stains in which tissue is not found: every pixel that they touch is tissue."""
    step = max(_MASK_UM / slide.require_mpp(), max(slide.shape) / _MAX_MASK_PX, 1.0)
    shape = math.ceil(slide.shape[0] / step), math.ceil(slide.shape[1] / step)
    scale_yx = slide.shape[0] / shape[0], slide.shape[1] / shape[1]
    slide_box, mask = box(0, 0, *slide.shape), np.zeros(shape, bool)
    for part in shapely.get_parts([region.geometry for region in regions]):
        on_slide = part if slide_box.covers(part) else part.intersection(slide_box)  # parts far outside are not drawn
        for polygon in shapely.get_parts(on_slide):
            if isinstance(polygon, Polygon) and not polygon.is_empty:
                picture = Image.new("1", shape[::-1])
                draw = ImageDraw.Draw(picture)
                for ring, inside in ((polygon.exterior, 1), *((hole, 0) for hole in polygon.interiors)):
                    corners = np.asarray(ring.coords) / scale_yx
                    draw.polygon([(x, y) for y, x in corners.tolist()], fill=inside, outline=1)
                mask |= np.asarray(picture)
    if not mask.any():
        raise RegionError(f"no outline is on {slide.path.name}", "check that they belong to this slide and are in level-0 pixels")
    return TissueMask(ndimage.binary_dilation(mask, np.ones((3, 3), bool)), scale_yx)


def find_tissue(slide: Slide) -> TissueMask:
    """Return the tissue mask of a brightfield slide, without pen marks.

    Parameters
    ----------
    slide : Slide
        Needs its mpp: closing and speck sizes are in µm.

    Raises
    ------
    EmptyTissueError
        If no tissue is found, or the slide is not brightfield.
    MissingMppError
        If the resolution is unknown.
    """
    mpp = slide.require_mpp()
    step = max(_MASK_UM / mpp, max(slide.shape) / _MAX_MASK_PX, 1.0)
    shape = (max(1, round(slide.shape[0] / step)), max(1, round(slide.shape[1] / step)))
    scale_yx = (slide.shape[0] / shape[0], slide.shape[1] / shape[1])
    mask = tissue_of(slide.overview(shape), scale_yx[0] * mpp, slide.path.name)
    give_back_freed_memory()  # a hundred megabytes for a huge slide, in pieces too small for a network's arrays
    return TissueMask(mask, scale_yx)


def tissue_of(image: NDArray[np.uint8], mpp: float, name: str = "the image") -> NDArray[np.bool_]:
    """Return the tissue mask (h, w) of an overview picture (h, w, 3) uint8 with ``mpp`` µm per pixel; ``name`` is its slide."""
    bright = np.percentile(image.reshape(-1, 3)[:: max(1, image.size // 3_000_000)], 95, axis=0)
    if bright.max() < _DARK_FIELD * 2 or np.median(image.max(axis=2)) < _DARK_FIELD:
        msg = f"{name} is dark where glass should be bright: it does not look like a brightfield slide"
        remedy = f"open an H&E (or other brightfield) scan, as fluorescence is not supported, {_STAND_IN}"
        raise EmptyTissueError(msg, remedy)
    # Glass is the brightest common colour; a slide full of tissue has none, then white is used.
    glass = np.where(bright > 200, bright, 255.0).astype(np.float32)
    chroma, stained, inked = _colours(image, glass)
    ink: NDArray[np.bool_] = ndimage.binary_dilation(ndimage.binary_opening(inked), iterations=5)
    mask: NDArray[np.bool_] = (chroma > _chroma_threshold(chroma)) & stained & ~ink
    radius = max(1, round(_CLOSING_UM / mpp / 2))
    mask = ndimage.binary_closing(np.pad(mask, radius), disk(radius))[radius:-radius, radius:-radius]
    mask &= ~ink
    mask = remove_small_objects(mask, max_size=int(_SPECK_UM2 / mpp**2))
    mask = remove_small_holes(mask, max_size=int(_HOLE_UM2 / mpp**2))
    if not mask.any():
        msg = f"no tissue was found on {name}"
        raise EmptyTissueError(msg, f"check its stain and its mpp, {_STAND_IN}")
    return mask


def _colours(
    image: NDArray[np.uint8], glass: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return each pixel's chroma (density of green minus the smaller of red and blue), and whether it is stained and inked.

    Computed in strips: for the four million pixels of a huge slide's overview, it would otherwise be the run's peak of memory.
    """
    height, width, _ = image.shape
    chroma = np.empty((height, width), np.float32)
    stained = np.empty((height, width), bool)
    inked = np.empty((height, width), bool)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(height, top + _STRIP_ROWS)
        above = min(top, _BLUR_REACH)
        density = np.minimum(image[top - above : bottom + _BLUR_REACH], glass)
        density += 1
        density /= glass + 1
        np.negative(np.log10(density, out=density), out=density)
        density = ndimage.gaussian_filter(density, (_BLUR_PX, _BLUR_PX, 0))[above : above + bottom - top]
        red, green, blue = density[..., 0], density[..., 1], density[..., 2]
        strip = slice(top, bottom)
        np.subtract(green, np.minimum(red, blue), out=chroma[strip])
        stained[strip] = (chroma[strip] > _GREY_CHROMA * density.mean(axis=2)) & (red < _INK_RED * green + 0.01)
        inked[strip] = _ink(red, green, blue)
    return chroma, stained, inked


def _chroma_threshold(chroma: NDArray[np.float32]) -> float:
    """Return a threshold just above the noise of glass: Otsu's alone would miss pale and fatty tissue beside dense tissue."""
    otsu = float(threshold_otsu(np.clip(chroma, 0, 0.4)))
    glass = chroma[chroma <= otsu]
    median = float(np.median(glass, overwrite_input=True))
    np.abs(np.subtract(glass, median, out=glass), out=glass)
    noise = 1.4826 * float(np.median(glass, overwrite_input=True))
    return max(_FAINTEST_CHROMA, min(otsu, median + 6 * noise))


def _ink(red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return a mask of pen marks: blue and green ink absorb red most, black ink absorbs all channels more than any stain."""
    coloured = (red > green * 1.05 + 0.05) & (red > 0.15)
    black = np.minimum(np.minimum(red, blue), green) > 0.65
    ink: NDArray[np.bool_] = coloured | black
    return ink
