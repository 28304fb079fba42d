"""Grey, 16-bit and fluorescence images as slides: one or three of their channels are shown as RGB."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import tifffile
import zarr
from PIL import Image, UnidentifiedImageError

from napari_histoad.errors import SettingsError, SlideError, first_line
from napari_histoad.slide._array import ArraySlide, Planes, tile_of_chunks
from napari_histoad.slide._base import Slide
from napari_histoad.slide._colour import GLASS
from napari_histoad.slide._tiff_layout import check_chain, stated_mpp
from napari_histoad.slide._zarr import is_zarr, read_multiscales

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_CAMERA_BITS = (8, 10, 12, 14, 16)
_DARK = 0.25
_PROBE_PX = 4_000_000
_DECODED_PX = 512
_WHITE_IS_ZERO, _INTENSITIES = 0, (1, 2, 32803, 34892)
"""Values of the tag PhotometricInterpretation; of the second kind, samples are intensities: grey, RGB, and raw camera data."""


class ChannelSlide(ArraySlide):
    """Chosen channels of any slide, or of a TIFF, OME-TIFF, OME-Zarr or picture of 8 or 16 bits, as 8-bit RGB.

    One channel (0 is the first) is shown as grey, three as red, green and blue. Intensities are scaled by one white point for the
    whole slide, so that they stay comparable within it and between slides of one camera: ``white`` or, by default, the maximum of
    the camera's bit depth as stated by the file, else the smallest of 8, 10, 12, 14 or 16 bits that fits the brightest pixel of
    the coarsest level. Images that are mostly dark, as in fluorescence, are inverted: all later steps expect white glass.
    """

    format: ClassVar[str] = "channels"
    on_disk: ClassVar[bool] = True

    def __init__(self, path: Path, channels: Sequence[int], *, white: int | None = None, mpp: float | None = None) -> None:
        self._chosen, self._given_white = tuple(channels), white
        if len(self._chosen) not in (1, 3):
            raise SettingsError(
                f"{len(self._chosen)} channels are chosen", "choose one, shown as grey, or three, as red, green, blue"
            )
        try:
            planes, mpp_yx, camera_white, white_is_zero = _read_planes(path)
        except (*_BROKEN, OSError, RuntimeError) as err:
            raise SlideError(f"{path.name}: its channels cannot be read ({first_line(err)})", "check the file") from err
        count, dtype = planes[0].shape[2], planes[0].dtype
        missing = [number for number in self._chosen if not 0 <= number < count]
        if missing:
            among = "choose 0, it has no other" if count == 1 else f"choose among 0 to {count - 1}"
            raise SettingsError(f"{path.name} has no channel {missing[0]}", among)
        if dtype not in (np.uint8, np.uint16):
            raise SlideError(f"{path.name} holds pixels of {dtype}", "convert them to 8 or 16 bits")
        probe = _probe(planes[-1])[..., list(self._chosen)]
        self._white = white or camera_white or (255 if dtype == np.uint8 else _camera_white(int(probe.max(initial=0))))
        self._negative = white_is_zero or bool(np.median(probe) < _DARK * self._white)
        levels = [_Chosen(p, self._chosen, self._white, negative=self._negative) for p in planes]
        properties = {
            "Channels": ", ".join(str(c) for c in self._chosen) + f" of {count}",
            "White": str(self._white),
            "Negative": "yes" if self._negative else "no",
        }
        tile, notes = tile_of_chunks(planes[0].chunks), planes[0].notes
        super().__init__(levels, path, mpp_yx=mpp_yx, mpp=mpp, tile=tile, properties=properties, notes=notes)

    def with_mpp(self, mpp: float) -> ChannelSlide:
        return ChannelSlide(self.path, self._chosen, white=self._given_white, mpp=mpp)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ChannelSlide, white=self._given_white, mpp=self._given_mpp), (self.path, self._chosen)


class _Chosen:
    """A view of chosen channels as 8-bit RGB."""

    dtype = np.dtype(np.uint8)

    def __init__(self, planes: Planes | _Decoded, channels: tuple[int, ...], white: int, *, negative: bool) -> None:
        self._planes = planes
        self._channels = channels * 3 if len(channels) == 1 else channels
        table = np.minimum(np.arange(np.iinfo(planes.dtype).max + 1) * (255.0 / white), 255).round().astype(np.uint8)
        self._table = 255 - table if negative else table
        self.shape = (*planes.shape[:2], 3)

    def __getitem__(self, box: tuple[slice, slice]) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = self._table[self._planes[box][..., list(self._channels)]]
        return pixels


class _Decoded:
    """A level of an RGB slide, whose channels are red, green and blue, however the file stores them."""

    dtype = np.dtype(np.uint8)

    def __init__(self, slide: Slide, level: int) -> None:
        self._slide, self._level, self.notes = slide, level, slide.notes
        self.shape = (*slide.levels[level].shape, 3)
        self.chunks = (_DECODED_PX, _DECODED_PX)

    def __getitem__(self, box: tuple[slice, slice]) -> NDArray[np.uint8]:
        (y0, y1, _), (x0, x1, _) = (span.indices(n) for span, n in zip(box, self.shape[:2], strict=True))
        return self._slide.read(self._level, y0, x0, y1 - y0, x1 - x0)


def _read_planes(path: Path) -> tuple[Sequence[Planes | _Decoded], tuple[float, float] | None, int | None, bool]:
    """Return the levels with all channels, µm per pixel (y, x), the camera's white if stated, and whether 0 is white."""
    try:
        slide = Slide._open_again(path)
    except SlideError as err:
        return _read_channels(path, err)
    return [_Decoded(slide, i) for i in range(len(slide.levels))], slide.file_mpp_yx, 255, False


def _read_channels(path: Path, refusal: SlideError) -> tuple[list[Planes], tuple[float, float] | None, int | None, bool]:
    """Return the same for a file that is not an RGB slide; ``refusal`` is the error that says why not."""
    if path.is_dir():
        if not is_zarr(path):
            raise refusal
        planes, mpp_yx, _ = read_multiscales(path)
        return planes, mpp_yx, None, False
    try:
        with path.open("rb") as handle:
            check_chain(handle)
        tif = tifffile.TiffFile(path)
    except _BROKEN:
        return [Planes(pixels := _read_picture(path, refusal), "yxc"[: pixels.ndim])], None, None, False
    # The file is not closed here: the arrays read from it.
    series = max(tif.series, key=lambda s: s.keyframe.imagelength * s.keyframe.imagewidth)
    kind = int(series.keyframe.photometric)
    if kind not in (_WHITE_IS_ZERO, *_INTENSITIES):
        raise refusal
    axes = _named(series.axes)
    levels = [zarr.open_array(series.aszarr(level=i), mode="r") for i in range(len(series.levels))]
    bits = tifffile.xml2dict(tif.ome_metadata) if tif.ome_metadata else {}
    return [Planes(level, axes) for level in levels], stated_mpp(tif, series), _significant(bits), kind == _WHITE_IS_ZERO


def _read_picture(path: Path, refusal: SlideError) -> NDArray[Any]:
    """Return a grey picture as (h, w); transparent pixels are white."""
    try:
        with Image.open(path) as image:
            if image.mode in ("LA", "La"):
                glass = Image.new("LA", image.size, (GLASS, GLASS))
                return np.asarray(Image.alpha_composite(glass.convert("RGBA"), image.convert("RGBA")).convert("L"))
            if image.mode not in ("1", "L", "I", "F") and not image.mode.startswith("I;16"):
                raise refusal
            pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
            return pixels.astype(pixels.dtype.newbyteorder("="))
    except (UnidentifiedImageError, Image.DecompressionBombError) as err:
        raise refusal from err


def _named(axes: str) -> str:
    """Return tifffile's axes in our letters; unnamed ones are channels."""
    named = axes.lower().replace("s", "c")
    return named if "c" in named else named.replace("q", "c").replace("i", "c")


def _significant(ome: dict[str, Any]) -> int | None:
    image = ome.get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    bits = pixels.get("SignificantBits")
    return None if bits is None else 2 ** int(bits) - 1


def _probe(planes: Planes | _Decoded) -> NDArray[Any]:
    """Return a sample of pixels from all parts of a level."""
    height, width, _ = planes.shape
    rows = max(1, min(height, _PROBE_PX // width))
    step = max(1, height // 8)
    if rows == height:
        return planes[slice(0, height), slice(0, width)].reshape(-1, planes.shape[2])
    bands = [planes[slice(y, min(y + max(1, rows // 8), height)), slice(0, width)] for y in range(0, height, step)]
    return np.concatenate([band.reshape(-1, planes.shape[2]) for band in bands])


def _camera_white(brightest: int) -> int:
    return cast("int", next(2**bits - 1 for bits in _CAMERA_BITS if brightest < 2**bits))


_BROKEN = (tifffile.TiffFileError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)
