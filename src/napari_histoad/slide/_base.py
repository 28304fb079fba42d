"""`Slide`, the base class of all slides: geometry, resolution and reading, whatever the file format."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from napari_histoad.errors import MissingMppError, SettingsError, SlideError
from napari_histoad.slide._colour import GLASS, ToSrgb
from napari_histoad.slide._name import file_name, slide_name
from napari_histoad.slide._remote import address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

MPP_RANGE = (0.05, 20.0)
"""Plausible µm per pixel of a light microscope; values outside come from a wrong unit or a wrong tag."""

CHOOSE_CHANNELS = "choose one channel or three: histoad convert IN --channels 0 makes a slide of them"
"""The remedy for images that are not 8-bit RGB."""

_CONVERT = "convert it to a tiled 8-bit RGB TIFF, for example: vips tiffsave IN OUT --tile --pyramid"
_STRIP_PX = 8_000_000
_LARGE_PX = 8192
_SQUARE = 1.05
"""Pixels up to 5% taller than wide, or wider than tall, count as square: scanners differ by less than 1%."""
_ROUNDING = 0.01
"""Resolutions that differ by a smaller fraction count as equal: 0.25 and 0.2498."""


def check_mpp(mpp: float, where: str = "mpp") -> float:
    """Return ``mpp`` if it is a plausible resolution in µm per pixel.

    Raises
    ------
    SettingsError
        If it lies outside 0.05 to 20.
    """
    low, high = MPP_RANGE
    if not (math.isfinite(mpp) and low <= mpp <= high):
        msg = f"{where}: {mpp:g} µm per pixel is outside {low:g} to {high:g}"
        raise SettingsError(msg, "give the resolution of level 0, for example 0.25 for a 40x scan")
    return float(mpp)


def _differ(given: float, stated: float | None) -> bool:
    """Return whether two resolutions differ by more than rounding."""
    return stated is not None and abs(given / stated - 1) > _ROUNDING


@dataclass(frozen=True)
class Level:
    """One resolution of a slide.

    Attributes
    ----------
    shape : tuple[int, int]
        (height, width) in pixels of this level.
    downsample_yx : tuple[float, float]
        Level-0 pixels per pixel of this level, per axis: exact ratios of the shapes, ≥ 1.
    """

    shape: tuple[int, int]
    downsample_yx: tuple[float, float]

    @property
    def downsample(self) -> float:
        """Geometric mean of the two ratios."""
        return math.sqrt(self.downsample_yx[0] * self.downsample_yx[1])


def make_levels(shapes: list[tuple[int, int]]) -> tuple[Level, ...]:
    """Return levels with exact ratios from their shapes, finest first."""
    height, width = shapes[0]
    return tuple(Level(shape, (height / shape[0], width / shape[1])) for shape in shapes)


def coarsest(levels: tuple[Level, ...], downsample: float) -> int:
    """Return the coarsest level that is at least as fine as ``downsample`` (2% tolerance)."""
    fits = [i for i, level in enumerate(levels) if level.downsample <= downsample * 1.02]
    return max(fits, default=0, key=lambda i: levels[i].downsample)


class UnsupportedVariantError(Exception):
    """A file has the right format, but uses a part of it that is not supported; another format may be able to read the file.

    Parameters
    ----------
    reason : str
        What is not supported, as a sentence about the file: "it is not RGB".
    remedy : str
        What the user can do if no other format reads the file.
    final : bool
        No other format needs to be tried.
    notes : sequence of str
        For `Slide.notes`, if another format reads the file.
    """

    def __init__(self, reason: str, *, remedy: str = _CONVERT, final: bool = False, notes: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.remedy, self.final, self.notes = remedy, final, tuple(notes)


class Slide(ABC):
    """A whole-slide image: its geometry is known when it is opened, pixels are read on demand.

    Slides are thread-safe, close when they are garbage collected, and pickle as their path: unpickling opens the file again. Use
    a slide as a context manager to close it earlier.

    A subclass is one file format; to add one, see ``_formats.py``, or register the class in the entry-point group
    ``napari_histoad.slide_formats`` of another package. It sets `format`, `patterns` and `priority`, and implements
    `supports`; the easiest base is `ArraySlide`, given lazy arrays.

    Attributes
    ----------
    path : Path
        The file.
    format : str
        Name of the file format, for people.
    levels : tuple[Level, ...]
        Finest first.
    mpp : float or None
        µm per level-0 pixel; None if the file does not state it and none was given.
    file_mpp : float or None
        µm per level-0 pixel as stated by the file, also if another value was given; the geometric mean of both axes.
    file_mpp_yx : tuple[float, float] or None
        The same for each axis.
    properties : dict[str, str]
        Metadata of the file.
    icc_profile : bytes or None
        The embedded colour profile, if it is valid and for RGB colours.
    srgb : bool
        Whether pixels are converted to sRGB by that profile when they are read; without a profile nothing is converted.
    notes : tuple[str, ...]
        Sentences for users about what was chosen or assumed when the slide was opened.
    """

    format: ClassVar[str]
    patterns: ClassVar[tuple[str, ...]] = ()
    """Names of files of this format, in lower case, such as ``"*.svs"``: only offered to users, `supports` decides."""
    priority: ClassVar[int] = 50
    """Formats with a higher number are tried first; OpenSlide, which tries every file, has 0."""
    reads_urls: ClassVar[bool] = False
    """Whether files are read over the network."""

    @classmethod
    def supports(cls, path: Path, head: bytes | None) -> bool:  # noqa: ARG003 - for subclasses
        """Return whether a file or folder looks like a slide of this format.

        Parameters
        ----------
        path : Path
        head : bytes or None
            The first 256 bytes of a file; None for a folder.
        """
        return False

    @classmethod
    def from_path(cls, path: Path, mpp: float | None) -> Slide:
        """Open a file or folder that is supported.

        Raises
        ------
        UnsupportedVariantError
            If another format may be able to read it.
        SlideError
            If it cannot be read.
        """
        return cls(path, mpp=mpp)  # type: ignore[call-arg]

    def __init__(
        self,
        path: Path,
        levels: tuple[Level, ...],
        *,
        file_mpp_yx: tuple[float, float] | None,
        mpp: float | None,
        properties: dict[str, str],
        icc_profile: bytes | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.levels = levels
        self.notes = tuple(notes)
        low, high = MPP_RANGE
        plausible = file_mpp_yx is not None and low <= min(file_mpp_yx) and max(file_mpp_yx) <= high
        self.file_mpp_yx = file_mpp_yx if plausible else None
        if file_mpp_yx is not None and not plausible:
            y, x = file_mpp_yx
            size = f"{y:.4g}" if y == x else f"{y:.4g} x {x:.4g}"
            self.notes += (f"The file states {size} µm per pixel, which is outside {low:g} to {high:g}: ignored.",)
        square = self.file_mpp_yx is not None and max(self.file_mpp_yx) <= _SQUARE * min(self.file_mpp_yx)
        self.file_mpp = math.sqrt(self.file_mpp_yx[0] * self.file_mpp_yx[1]) if self.file_mpp_yx and square else None
        self._given_mpp = None if mpp is None else check_mpp(mpp, path.name)
        self.mpp = self._given_mpp if self._given_mpp is not None else self.file_mpp
        if self._given_mpp is not None and _differ(self._given_mpp, self.file_mpp):
            note = f"The file states {self.file_mpp:g} µm per pixel; {self._given_mpp:g} is used instead, as given."
            self.notes += () if note in self.notes else (note,)
        self.properties = properties
        self.icc_profile: bytes | None = None
        self.srgb = False
        self._to_srgb: ToSrgb | None = None
        if icc_profile:
            try:
                self._to_srgb = ToSrgb(icc_profile)
                self.icc_profile = icc_profile
            except ValueError as err:
                self.notes += (f"Its colour profile is ignored: {err}.",)
        self._associated: dict[str, Callable[[], NDArray[np.uint8]]] = {}
        self._sources = levels
        """The levels, followed by reduced sizes that the format can decode faster than it decodes a level and shrinks it."""

    # -- geometry

    @cached_property
    def name(self) -> str:
        """The slide's name, which names its results, see `slide_name`."""
        return slide_name(self.path) if self.on_disk else self.path.stem

    @cached_property
    def file_name(self) -> str:
        """The file's name as shown to users and recorded in results, see `napari_histoad.slide.file_name`."""
        return file_name(self.path) if self.on_disk else self.path.name

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of level 0 in pixels."""
        return self.levels[0].shape

    def assume_mpp(self, mpp: float | None) -> None:
        """Set the resolution to ``mpp`` if none is known; a slide that has another one keeps it and gets a note.

        Raises
        ------
        SettingsError
            If it lies outside 0.05 to 20.
        """
        if mpp is None:
            return
        mpp = check_mpp(mpp, self.path.name)
        if self.mpp is None:
            self._given_mpp = self.mpp = mpp
        elif self._given_mpp is None and _differ(mpp, self.mpp):
            note = f"The file states {self.mpp:g} µm per pixel, which is used; {mpp:g} is for slides that state no resolution"
            self.notes += (f"{note} (to use {mpp:g} here too: --override-mpp {mpp:g}).",)

    def require_mpp(self) -> float:
        """Return the µm per level-0 pixel.

        Raises
        ------
        MissingMppError
            If none was given, and the file states none or its pixels are not square.
        """
        if self.mpp is None and self.file_mpp_yx is not None:
            y, x = self.file_mpp_yx
            msg = f"the pixels of {self.path.name} are not square ({y:g} x {x:g} µm)"
            raise MissingMppError(msg, f"resample it, or treat them as square: --slide-mpp {math.sqrt(y * x):.3g}")
        if self.mpp is None:
            msg = f"{self.path.name} does not state its resolution in µm per pixel"
            raise MissingMppError(msg, "give it: --slide-mpp 0.25 (terminal), slide_mpp=0.25 (Python), or type it in the panel")
        return self.mpp

    def best_level(self, downsample: float) -> int:
        """Return the coarsest level that is at least as fine as ``downsample`` (2% tolerance)."""
        return coarsest(self.levels, downsample)

    # -- pixels

    @abstractmethod
    def _read_inside(self, source: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out`` (h, w, 3) from a box inside a level or other source; called from many threads at once."""

    def read(self, level: int, y: int, x: int, h: int, w: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return the pixels of a box in one level; outside the level they are white.

        Parameters
        ----------
        level : int
            0 is the finest.
        y, x : int
            Top left corner in pixels **of that level**; may be negative.
        h, w : int
            Size in pixels of that level.
        out : (h, w, 3) uint8, optional
            Array to fill and return, instead of a new one.

        Returns
        -------
        (h, w, 3) uint8, RGB composited on white

        Raises
        ------
        SlideError
            If the level does not exist or a tile cannot be decoded.
        """
        if not 0 <= level < len(self.levels):
            msg = f"{self.path.name} has no level {level}"
            raise SlideError(msg, f"choose 0 to {len(self.levels) - 1}")
        return self._read(level, y, x, h, w, out)

    def _read(self, source: int, y: int, x: int, h: int, w: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        if out is None:
            out = np.empty((h, w, 3), np.uint8)
        height, width = self._sources[source].shape
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
        if (y0, x0, y1, x1) == (y, x, y + h, x + w):
            self._read_colours(source, y, x, out)
            return out
        out[:] = GLASS
        if y1 > y0 and x1 > x0:
            inside = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
            self._read_colours(source, y0, x0, inside)
            out[y0 - y : y1 - y, x0 - x : x1 - x] = inside
        return out

    def _read_colours(self, source: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
        self._read_inside(source, y, x, out)
        if self.srgb and self._to_srgb is not None:
            self._to_srgb(out)

    def read_stored(self, y: int, x: int, h: int, w: int) -> NDArray[np.uint8]:
        """Return a box inside level 0 as (h, w, 3) uint8 in the colours stored in the file, even if `srgb` is set.

        Raises
        ------
        SlideError
            If a tile cannot be decoded.
        """
        out = np.empty((h, w, 3), np.uint8)
        self._read_inside(0, y, x, out)
        return out

    @property
    def index_digest(self) -> str:
        """A digest of the file's index, such as the sizes of its compressed tiles, as ``kind:digest``; empty if it has none."""
        return ""

    def forget_tiles(self) -> None:  # noqa: B027 - only some formats have a cache
        """Release decoded tiles that are cached, if any; called when the next reads will be elsewhere."""

    def read_scaled(
        self, y: float, x: float, h: float, w: float, shape: tuple[int, int], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return a level-0 box resampled to ``shape`` with an area filter, from the best level.

        Where a level is missing, JPEG tiles are decoded at half, quarter or eighth size, which filters too and is faster.

        Parameters
        ----------
        y, x, h, w : float
            Box in level-0 pixels; may be fractional.
        shape : tuple[int, int]
            (height, width) of the result in pixels.
        out : (*shape, 3) uint8, optional
            Array to fill and return, instead of a new one.

        Returns
        -------
        (*shape, 3) uint8

        Raises
        ------
        SlideError
            If a tile cannot be decoded.
        """
        source, ds_y, ds_x, same = self._source_of(h, w, shape)
        top, left, bottom, right = y / ds_y, x / ds_x, (y + h) / ds_y, (x + w) / ds_x
        if same:
            return self._read(source, round(top), round(left), *shape, out=out)
        y0, x0 = math.floor(top), math.floor(left)
        pixels = self._read(source, y0, x0, math.ceil(bottom) - y0, math.ceil(right) - x0)
        box = (left - x0, top - y0, min(right - x0, pixels.shape[1]), min(bottom - y0, pixels.shape[0]))
        scaled = np.asarray(Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BOX, box=box))
        if out is None:
            return scaled
        out[:] = scaled
        return out

    def read_scaled_row(self, y: float, x: Sequence[float], h: float, w: float, outs: Sequence[NDArray[np.uint8]]) -> None:
        """Read boxes side by side, each as `read_scaled` does; where no resampling is needed, shared pixels are read once.

        Parameters
        ----------
        y, h, w : float
            Top edge and size of all boxes in level-0 pixels.
        x : sequence of float
            Left edge of each box.
        outs : sequence of (h_px, w_px, 3) uint8
            Arrays to fill, all of the same shape.
        """
        h_px, w_px = outs[0].shape[:2]
        source, ds_y, ds_x, same = self._source_of(h, w, (h_px, w_px))
        if not same:
            for left, out in zip(x, outs, strict=True):
                self.read_scaled(y, left, h, w, (h_px, w_px), out=out)
            return
        lefts = [round(left / ds_x) for left in x]
        first = min(lefts)
        row = self._read(source, round(y / ds_y), first, h_px, max(lefts) - first + w_px)
        for left, out in zip(lefts, outs, strict=True):
            out[:] = row[:, left - first : left - first + w_px]

    def _source_of(self, h: float, w: float, shape: tuple[int, int]) -> tuple[int, float, float, bool]:
        """Return the source that a level-0 box is read from, its downsamples, and whether it needs no resampling.

        It needs none if the box is at most half a pixel larger or smaller than ``shape`` in that source.
        """
        source = coarsest(self._sources, min(h / shape[0], w / shape[1]))
        ds_y, ds_x = self._sources[source].downsample_yx
        return source, ds_y, ds_x, abs(h / ds_y - shape[0]) < 0.5 and abs(w / ds_x - shape[1]) < 0.5

    def read_at(self, mpp: float, y: float, x: float, h_px: int, w_px: int) -> NDArray[np.uint8]:
        """Return a box resampled to any resolution with an area filter, from the best level.

        Parameters
        ----------
        mpp : float
            µm per pixel of the result; values below the slide's own are interpolated.
        y, x : float
            Top left corner in level-0 pixels.
        h_px, w_px : int
            Size of the result in pixels.

        Returns
        -------
        (h_px, w_px, 3) uint8

        Raises
        ------
        MissingMppError
            If the slide's own resolution is unknown.
        """
        ratio = mpp / self.require_mpp()
        return self.read_scaled(y, x, h_px * ratio, w_px * ratio, (h_px, w_px))

    def thumbnail(self, max_px: int = 1024) -> NDArray[np.uint8]:
        """Return the whole slide, at most ``max_px`` on its longer side, as (h, w, 3) uint8."""
        scale = min(1.0, max_px / max(self.shape))
        shape = (max(1, round(self.shape[0] * scale)), max(1, round(self.shape[1] * scale)))
        return self.overview(shape)

    def overview(self, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the whole slide resampled to ``shape``; it is read in strips, so that memory stays bounded without a pyramid."""
        out = np.empty((*shape, 3), np.uint8)
        ratio = self.shape[0] / shape[0]
        level = self.levels[self.best_level(ratio)]
        rows = max(1, int(_STRIP_PX / max(1.0, level.shape[1] * ratio / level.downsample)))
        for top in range(0, shape[0], rows):
            n = min(rows, shape[0] - top)
            self.read_scaled(top * ratio, 0, n * ratio, self.shape[1], (n, shape[1]), out=out[top : top + n])
        return out

    @property
    def associated(self) -> Mapping[str, Callable[[], NDArray[np.uint8]]]:
        """Label, macro and other associated images: by name, functions that return (h, w, 3) uint8."""
        return self._associated

    # -- opening and closing

    on_disk: ClassVar[bool] = True
    """Whether `path` is a file that other processes can open."""
    _open_again: ClassVar[Callable[..., Slide]]
    """`open_slide`; set by its module, which imports this one."""

    def with_mpp(self, mpp: float) -> Slide:
        """Return the same slide with another resolution in µm per level-0 pixel."""
        return self._open_again(self.path, mpp, srgb=self.srgb)

    def in_srgb(self, srgb: bool) -> Slide:  # noqa: FBT001 - the name says it
        """Return the slide with its colours converted to sRGB, or as stored by the scanner."""
        if srgb == self.srgb or self._to_srgb is None:
            return self
        return self._open_again(self.path, self._given_mpp, srgb=srgb)

    @abstractmethod
    def close(self) -> None:
        """Close the file. Closing twice is allowed; reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @property
    def advice(self) -> str:
        """Advice on how to make work with this slide faster; empty if there is none."""
        if len(self.levels) == 1 and max(self.shape) > _LARGE_PX:
            return f"it has no pyramid of smaller levels, so overviews are slow: histoad convert {self.path.name} adds one"
        return ""

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(self._open_again, srgb=self.srgb), (address(self.path), self._given_mpp)

    def __repr__(self) -> str:
        mpp = "mpp unknown" if self.mpp is None else f"{self.mpp:g} µm/px"
        return f"<Slide {self.path.name}: {self.format}, {self.shape[0]} x {self.shape[1]} px, {mpp}>"
