"""Pixels as Qt draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtGui import QImage, QPixmap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def pixmap(pixels: NDArray[np.uint8]) -> QPixmap:
    """Return pixels (H, W, 3) uint8 as a pixmap."""
    h, w = pixels.shape[:2]
    return QPixmap.fromImage(QImage(pixels.tobytes(), w, h, 3 * w, QImage.Format.Format_RGB888))
