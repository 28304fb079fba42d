"""Reading tiles that are picture files of any format as 8-bit RGB."""

from __future__ import annotations

import warnings
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from napari_histoad.errors import SettingsError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"}
_TIFF = {".tif", ".tiff"}
_MOST_PX = 64_000_000
"""Largest accepted picture: a larger one is not a tile and would fill the memory."""
_PLAIN_MODES = {"RGB", "L", "1", "P", "LA", "La", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_EIGHT_BIT = "save the tiles with 8 bits per channel, scaled so that white is 255"
_SAMPLE_FORMAT = 339
_MAX_TAGS = ("MaxSampleValue", "SMaxSampleValue")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Read a tile as 8-bit RGB, (H, W, 3) uint8.

    Transparent pixels become white; grey, palette, CMYK and YCbCr are converted to RGB; the EXIF orientation is applied; colour
    profiles are not. Values of more than 8 bits and floating-point values are scaled from 0 to the largest value stated by the
    TIFF (MaxSampleValue). Raises `SettingsError` if it cannot be read, holds several pictures, is too large, or its white point
    is unknown.
    """
    with _reading(path), _opened(path) as image:
        if image is None:
            return _read_tiff(path)
        _check(image, path)
        image.load()
        turned = ImageOps.exif_transpose(image)
        if turned.mode == "RGB" and "transparency" not in turned.info:
            return np.asarray(turned)
        if turned.has_transparency_data or turned.mode in ("La", "RGBa"):
            clear = turned.convert({"La": "LA", "RGBa": "RGBA"}.get(turned.mode, "RGBA")).convert("RGBA")
            turned = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
        return np.asarray(turned.convert("RGB"))


def picture_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a tile without reading its pixels; errors are those of `read_picture` that the header shows."""
    with _reading(path), _opened(path) as image:
        if image is None:
            return _tiff_size(path)
        _check(image, path)
        height, width = image.height, image.width
        sideways = image.format != "TIFF" and image.getexif().get(274, 1) >= 5  # Pillow rotates a TIFF when it opens it
        return (width, height) if sideways else (height, width)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors that decoders raise for damaged files into a `SettingsError`, and suppress their warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SettingsError:
        raise
    except Image.DecompressionBombError as err:
        raise _too_large(path) from err
    except Exception as err:
        reason = first_line(err)
        if isinstance(err, FileNotFoundError):
            reason = "there is no such file" if "://" not in str(path) else "only local files can be read, not URLs"
        elif isinstance(err, UnidentifiedImageError):
            reason = "not a picture in a known format"
        elif isinstance(err, OSError) and err.strerror:
            reason = err.strerror
        raise SettingsError(f"tile {path} cannot be read ({reason})", "check the file or its line in the manifest") from err


def _opened(path: Path) -> Any:
    """Open a picture; None for a TIFF that only tifffile understands."""
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        if path.suffix.lower() in _TIFF:
            return nullcontext()
        raise
    if image.format == "TIFF" and _is_deep(image):
        image.close()
        return nullcontext()
    return image


def _is_deep(image: Image.Image) -> bool:
    """Return whether samples have more than 8 bits, or a sign; Pillow would silently cut colour PNGs to 8 bits."""
    if image.format == "TIFF" and any(kind != 1 for kind in getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, (1,))):
        return True  # signed numbers, which Pillow would read as unsigned
    return image.mode not in _PLAIN_MODES or any(";16" in str(part.args) for part in getattr(image, "tile", ()))


def _check(image: Image.Image, path: Path) -> None:
    if image.width * image.height > _MOST_PX:
        raise _too_large(path)
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a photograph with previews
        raise _refused(path, f"holds {getattr(image, 'n_frames', 1)} pictures", "save the one that is the tile")
    if _is_deep(image):
        what = "floating-point numbers" if image.mode == "F" else f"more than 8 bits per channel ({image.mode})"
        raise _refused(path, f"holds {what}, and which value is white is unknown", _EIGHT_BIT)


def _read_tiff(path: Path) -> NDArray[np.uint8]:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        page = _only_page(tif, path)
        top = 255.0 if page.dtype == np.uint8 else _stated_top(page)
        if top is None:
            raise _refused(path, f"holds {page.dtype}, and which value is white is unknown", _EIGHT_BIT)
        if page.photometric.name not in ("RGB", "MINISBLACK", "MINISWHITE", "YCBCR"):
            raise _refused(path, f"has the colour space {page.photometric.name.lower()}", "save it as RGB")
        pixels = page.asarray()
        if pixels.ndim == 3 and page.planarconfig.name == "SEPARATE":
            pixels = np.moveaxis(pixels, 0, 2)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        kinds = [getattr(kind, "name", "") for kind in page.extrasamples]
        alpha = pixels.shape[2] in (2, 4) and bool(kinds) and kinds[0] in ("ASSOCALPHA", "UNASSALPHA")
        values = pixels.astype(np.float64) / top
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise _refused(path, f"holds values outside 0 to {top:g}, its stated maximum", _EIGHT_BIT)
        colour = values[..., : 1 if pixels.shape[2] < 3 else 3]
        if page.photometric.name == "MINISWHITE":
            colour = 1 - colour
        if alpha:
            opacity = values[..., -1:]
            colour = (colour if kinds[0] == "ASSOCALPHA" else colour * opacity) + 1 - opacity
        found: NDArray[np.uint8] = np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8)
        return np.repeat(found, 3, axis=2) if found.shape[2] == 1 else found


def _stated_top(page: Any) -> float | None:
    """Return the largest sample value that a TIFF states."""
    values = [np.max(page.tags[tag].value) for tag in _MAX_TAGS if tag in page.tags]
    return float(values[0]) if values and values[0] > 0 else None


def _tiff_size(path: Path) -> tuple[int, int]:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        page = _only_page(tif, path)
        if page.dtype != np.uint8 and _stated_top(page) is None:
            raise _refused(path, f"holds {page.dtype}, and which value is white is unknown", _EIGHT_BIT)
        return page.imagelength, page.imagewidth


def _only_page(tif: Any, path: Path) -> Any:
    if len(tif.pages) > 1:
        raise _refused(path, f"holds {len(tif.pages)} pictures", "save the one that is the tile")
    page = tif.pages[0]
    if page.imagelength * page.imagewidth > _MOST_PX:
        raise _too_large(path)
    return page


def _refused(path: Path, what: str, remedy: str) -> SettingsError:
    return SettingsError(f"tile {path} {what}", remedy)


def _too_large(path: Path) -> SettingsError:
    return _refused(path, f"has more than {_MOST_PX // 1_000_000} million pixels", "cut it into tiles, or open it as a slide")
