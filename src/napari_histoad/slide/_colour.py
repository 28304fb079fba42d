"""Pixels as they are looked at: on white."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GLASS", "on_white"]

GLASS = 255
"""What lies outside the slide, or was never scanned, reads as white."""


def on_white(rgba: NDArray[np.uint8], out: NDArray[np.uint8], *, premultiplied: bool = False) -> None:
    """Composite (h, w, 4) on white into ``out`` (h, w, 3).

    Parameters
    ----------
    premultiplied : bool
        Whether the colours have been multiplied by the opacity (TIFF: associated alpha).
    """
    opacity = rgba[..., 3:].astype(np.uint16)
    if (opacity == 255).all():
        out[:] = rgba[..., :3]
        return
    colour = rgba[..., :3].astype(np.uint16)
    if not premultiplied:
        colour = (colour * opacity + 127) // 255
    out[:] = np.minimum(colour + (255 - opacity), 255)
