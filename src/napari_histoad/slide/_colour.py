"""Colour conversions of pixels: compositing on white, to sRGB, and by colour tables."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms, ImageFilter

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GLASS = 255
"""Colour of pixels outside the slide or never scanned: white."""


def on_white(rgba: NDArray[np.uint8], out: NDArray[np.uint8], *, premultiplied: bool = False) -> None:
    """Composite (h, w, 4) on white into ``out`` (h, w, 3); ``premultiplied`` colours are those of TIFF's associated alpha."""
    opacity = rgba[..., 3:].astype(np.uint16)
    if (opacity == 255).all():
        out[:] = rgba[..., :3]
        return
    colour = rgba[..., :3].astype(np.uint16)
    if not premultiplied:
        colour = (colour * opacity + 127) // 255
    out[:] = np.minimum(colour + (255 - opacity), 255)


class ToSrgb:
    """Converts colours to sRGB by an ICC profile with the profile's own rendering intent; ValueError if it is not for RGB."""

    def __init__(self, profile: bytes) -> None:
        self._profile = profile
        self._of_thread = threading.local()  # a transform has a cache that threads must not share
        self._build()
        self._check()

    def _build(self) -> ImageCms.ImageCmsTransform:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(self._profile))
            if source.profile.xcolor_space.strip() != "RGB":
                raise ValueError(f"a profile of {source.profile.xcolor_space.strip()} colours, not RGB")
            intent = ImageCms.Intent(ImageCms.getDefaultIntent(source))
            transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB", intent)
        except (OSError, TypeError, AttributeError, OverflowError, ImageCms.PyCMSError) as err:
            raise ValueError(f"it is not a valid profile ({err})") from err
        self._of_thread.transform = transform
        return transform

    def _check(self) -> None:
        """Convert black and white as a test: damaged profiles give transforms that fail, or turn light into dark."""
        ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
        try:
            self(ends)
        except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as err:
            raise ValueError(f"it converts no pixels ({err})") from err
        if ends[0, 1].min() <= ends[0, 0].max():
            raise ValueError("it turns white darker than black")

    def __call__(self, pixels: NDArray[np.uint8]) -> None:
        """Convert (h, w, 3) uint8 in place."""
        if pixels.size:
            transform = getattr(self._of_thread, "transform", None) or self._build()
            pixels[:] = np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform))


class ColourTable:
    """A colour look-up table (3D LUT) of 33 x 33 x 33 colours, with interpolation between them.

    Parameters
    ----------
    colours : (33, 33, 33, 3) float32 in [0, 1]
        Indexed by blue, green and red.
    """

    _SIDE = 33

    def __init__(self, colours: NDArray[np.float32]) -> None:
        self._colours = colours
        self._filter = ImageFilter.Color3DLUT(self._SIDE, colours.reshape(-1).tolist(), target_mode="RGB")

    @classmethod
    def of(cls, recolour: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> ColourTable:
        """Return the table of a function that maps colours (..., 3) in [0, 1] to colours."""
        steps = np.linspace(0, 1, cls._SIDE)
        blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
        return cls(recolour(np.stack([red, green, blue], -1)).astype(np.float32))

    def __call__(self, pixels: NDArray[np.uint8]) -> None:
        """Convert (h, w, 3) uint8, or contiguous (n, h, w, 3), in place."""
        if pixels.size:
            rows = pixels.reshape(-1, *pixels.shape[-2:])
            rows[:] = np.asarray(Image.fromarray(rows).filter(self._filter))

    def __reduce__(self) -> tuple[type[ColourTable], tuple[NDArray[np.float32]]]:
        return ColourTable, (self._colours,)
