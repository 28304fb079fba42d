"""Slides read through OpenSlide, for files that no other format here decodes: MRXS, VMS, BIF, DICOM, …"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import openslide
from PIL import ImageCms

from napari_histoad.errors import SlideError
from napari_histoad.slide._base import Slide, make_levels
from napari_histoad.slide._colour import on_white
from napari_histoad.slide._units import length_um, size_um

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

_NO_PROFILE = b"damaged"


class OpenSlideSlide(Slide):
    """A slide read through OpenSlide, cropped to its non-empty bounds; transparent pixels are white."""

    format: ClassVar[str] = "OpenSlide"
    patterns: ClassVar[tuple[str, ...]] = ("*.vms", "*.vmu", "*.czi")
    priority: ClassVar[int] = 0

    @classmethod
    def supports(cls, path: Path, head: bytes | None) -> bool:  # noqa: ARG003 - OpenSlide looks for itself
        return bool(head)

    def __init__(self, path: Path, mpp: float | None = None, *, file: Path | None = None, notes: Sequence[str] = ()) -> None:
        self._file = path if file is None else file
        try:
            handle = openslide.OpenSlide(self._file)
        except openslide.OpenSlideError as err:
            msg = f"{path.name} is not a slide that can be read ({err})"
            remedy = "check the file, or convert it to a pyramidal TIFF or OME-TIFF"
            if "JPEG XR" in str(err):  # as many Zeiss scans are
                remedy = "convert it to OME-TIFF or OME-Zarr (QuPath and bioformats2raw do), or export it without JPEG XR"
            raise SlideError(msg, remedy) from err
        properties = dict(handle.properties)
        self.format = f"OpenSlide {properties.get(openslide.PROPERTY_NAME_VENDOR, '')}".strip()  # type: ignore[misc]
        width, height = handle.level_dimensions[0]
        self._origin_yx = (
            int(properties.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0)),
            int(properties.get(openslide.PROPERTY_NAME_BOUNDS_X, 0)),
        )
        height = int(properties.get(openslide.PROPERTY_NAME_BOUNDS_HEIGHT, height))
        width = int(properties.get(openslide.PROPERTY_NAME_BOUNDS_WIDTH, width))
        shapes = [
            (max(1, round(height / handle.level_dimensions[0][1] * h)), max(1, round(width / handle.level_dimensions[0][0] * w)))
            for w, h in handle.level_dimensions
        ]
        given = [properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_Y, openslide.PROPERTY_NAME_MPP_X)]
        mpp_y, mpp_x = (None if value is None else length_um(value) for value in given)
        if any(given) and mpp_y is None and mpp_x is None:
            notes = [*notes, f"Its µm per pixel is not a number ({given[0] or given[1]:.40}): ignored."]
        super().__init__(
            path,
            make_levels(shapes),
            file_mpp_yx=size_um(mpp_y, mpp_x),
            mpp=mpp,
            properties=properties,
            icc_profile=_colour_profile(handle),
            notes=notes,
        )
        self._handle: openslide.OpenSlide | None = handle
        self._lock = threading.Lock()
        for name in handle.associated_images:
            self._associated[name] = lambda name=name: self._read_associated(name)  # type: ignore[misc]

    def _read_inside(self, level: int, y: int, x: int, out: NDArray[np.uint8]) -> None:
        h, w = out.shape[:2]
        ds_y, ds_x = self.levels[level].downsample_yx
        corner = (round(x * ds_x) + self._origin_yx[1], round(y * ds_y) + self._origin_yx[0])
        handle = self._handle
        if handle is None:
            raise SlideError(f"{self.path.name} has been closed", "open it again")
        try:
            image = handle.read_region(corner, level, (w, h))
        except openslide.OpenSlideError as err:
            # After an error OpenSlide refuses all calls; the next read needs a new handle.
            with self._lock:
                if self._handle is handle:
                    self._handle = _reopen(self._file)
            msg = f"{self.path.name}: level {level} cannot be decoded at y={y}, x={x} ({err})"
            raise SlideError(msg, "the file is damaged there: copy it again from its source") from err
        on_white(np.asarray(image), out)

    @property
    def index_digest(self) -> str:
        known = self.properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        return f"openslide:{known}" if known else ""

    def _read_associated(self, name: str) -> NDArray[np.uint8]:
        # A separate handle, because after an error OpenSlide refuses all calls.
        try:
            with openslide.OpenSlide(self._file) as handle:
                return _on_white(handle.associated_images[name])
        except (openslide.OpenSlideError, KeyError) as err:
            msg = f"{self.path.name}: its {name} picture cannot be decoded ({err})"
            raise SlideError(msg, "the slide itself may still be intact") from err

    def close(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None


class MiraxSlide(OpenSlideSlide):
    """A MIRAX slide: a folder of data beside a file that is a small picture or empty, so that only its name counts."""

    patterns: ClassVar[tuple[str, ...]] = ("*.mrxs",)
    priority: ClassVar[int] = 60

    @classmethod
    def supports(cls, path: Path, head: bytes | None) -> bool:
        return head is not None and path.suffix.lower() == ".mrxs"

    @classmethod
    def from_path(cls, path: Path, mpp: float | None) -> Slide:
        return cls(path if path.with_suffix("").is_dir() else path.resolve(), mpp)


def _colour_profile(handle: openslide.OpenSlide) -> bytes | None:
    """Return the embedded profile; if Pillow cannot parse it, bytes that are no valid profile."""
    try:
        profile = handle.color_profile
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, openslide.OpenSlideError):
        return _NO_PROFILE
    return None if profile is None else bytes(profile.tobytes())


def _reopen(path: Path) -> openslide.OpenSlide | None:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError:
        return None


def _on_white(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode != "RGBA":
        return np.asarray(image.convert("RGB"))
    out = np.empty((image.height, image.width, 3), np.uint8)
    on_white(np.asarray(image), out)
    return out
