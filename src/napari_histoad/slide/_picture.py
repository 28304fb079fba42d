"""Pictures (PNG, JPEG, BMP, WebP) as slides of one level."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from napari_histoad.errors import SlideError
from napari_histoad.slide._array import ArraySlide
from napari_histoad.slide._base import CHOOSE_CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LONGEST_CHUNK = 2**26
_limits = threading.Lock()


@contextmanager
def _long_chunks() -> Iterator[None]:
    """Let Pillow read colour profiles and texts of up to 64 MiB in a PNG; by default it refuses more than 1 MiB as an attack."""
    with _limits:
        before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _LONGEST_CHUNK
        try:
            yield
        finally:
            PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = before


class PictureSlide(ArraySlide):
    """A picture, decoded at once and kept in memory."""

    format: ClassVar[str] = "picture"
    # No patterns: napari reads pictures by itself, and they are tiles more often than slides.

    @classmethod
    def supports(cls, path: Path, head: bytes | None) -> bool:  # noqa: ARG003 - the ending says nothing
        return head is not None and (
            head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        )

    on_disk: ClassVar[bool] = True

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        try:
            with _long_chunks(), warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path) as image:
                    kind, mode, dpi = image.format or "", image.mode, image.info.get("dpi")
                    icc = image.info.get("icc_profile") if mode != "CMYK" else None  # Pillow converts those by itself
                    if mode not in ("RGB", "RGBA", "P", "CMYK"):
                        raise SlideError(f"{path.name} is not RGB but {mode}", CHOOSE_CHANNELS)
                    opacity = mode == "RGBA" or "transparency" in image.info
                    pixels = np.asarray(image.convert("RGBA" if opacity else "RGB"))
        except UnidentifiedImageError as err:
            raise SlideError(f"{path.name} is not a picture that can be read", "check the file") from err
        except Image.DecompressionBombError as err:
            msg = f"{path.name} is too large to be decoded at once ({err})"
            raise SlideError(msg, "convert it to a pyramidal TIFF, for example: vips tiffsave IN OUT --tile --pyramid") from err
        except (OSError, ValueError, SyntaxError) as err:
            raise SlideError(f"{path.name} cannot be decoded ({err})", "the file may be damaged: copy it again") from err
        per_axis = None if not dpi or not all(dpi) else (25400.0 / float(dpi[1]), 25400.0 / float(dpi[0]))
        about = {"Compression": kind}
        super().__init__([pixels], path, mpp_yx=per_axis, mpp=mpp, properties=about, icc_profile=icc or None)
