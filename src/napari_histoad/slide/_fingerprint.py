"""Fingerprints of slides, to tell whether two files are the same scan: a few pixels, and the sizes of compressed tiles.

Taking one takes some milliseconds for slides of any size, so that it can be done before each map and each picture.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import SlideError
from napari_histoad.slide._remote import is_remote
from napari_histoad.system.host import usable_cores

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from napari_histoad.slide._base import Slide

_PLACES, _SIDE_PX, _CELLS = 16, 64, 4
_SAME_COLOUR = 2.0
"""Of 255. Decoders of the same file, and the same scan saved again, differ by less; other tissue differs by far more."""
_REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class SlideFingerprint:
    """The fingerprint of a slide, by which it is recognised wherever its file is."""

    shape: tuple[int, int]  # (height, width) of level 0
    index: str  # digest of the file's index, see `Slide.index_digest`; empty if it has none
    places: tuple[tuple[int, int], ...]  # level-0 pixels (y, x) around which pixels were compared
    colours: tuple[str | None, ...]  # mean colours of 4 x 4 cells of 16 px at each place, in hexadecimal

    def differences(self, slide: Slide) -> tuple[str, ...]:
        """Return how a slide differs from this fingerprint, as phrases; empty if it is the same scan.

        The index counts only if the pixels agree: a file that was rewritten has a different index.
        """
        if slide.shape != self.shape:
            sizes = ["{} x {} px".format(*shape) for shape in (slide.shape, self.shape)]
            return (f"it has {sizes[0]} instead of {sizes[1]}",)
        other = _look(slide, self.places)
        compared = [(a, b) for a, b in zip(self.colours, other.colours, strict=True) if a is not None and b is not None]
        unlike = sum(not _alike(a, b) for a, b in compared)
        if unlike:
            return (f"its pixels differ at {unlike} of {len(compared)} places",)
        same_kind = self.index.partition(":")[0] == other.index.partition(":")[0]
        return ("its file was rewritten, with other compressed data",) if same_kind and self.index != other.index else ()

    def is_of(self, slide: Slide) -> bool:
        """Return whether a slide is the same scan, in the same file or a rewritten one."""
        differences = self.differences(slide)
        return not differences or differences[0].startswith("its file")


def take_fingerprint(slide: Slide, centres: ArrayLike) -> SlideFingerprint:
    """Return the fingerprint of a slide.

    Parameters
    ----------
    slide : Slide
    centres : (N, 2) numbers
        Places on tissue in level-0 pixels (y, x), such as the centres of the tiles of a map: glass looks the same on all slides.
        At most 16, evenly spread among them, are used.
    """
    points = np.asarray(centres, float).reshape(-1, 2)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(_PLACES, len(points))).round().astype(int))
    return _look(slide, tuple((int(y), int(x)) for y, x in points[chosen]))


def _look(slide: Slide, places: tuple[tuple[int, int], ...]) -> SlideFingerprint:
    threads = _REQUESTS_AT_ONCE if is_remote(slide.path) else usable_cores()
    with ThreadPoolExecutor(threads, thread_name_prefix="fingerprint") as pool:
        colours = tuple(pool.map(lambda place: _colours(slide, place), places))
    slide.forget_tiles()
    return SlideFingerprint(slide.shape, slide.index_digest, places, colours)


def _colours(slide: Slide, place: tuple[int, int]) -> str | None:
    sides = [min(_SIDE_PX, n) for n in slide.shape]
    y, x = (max(0, min(at - side // 2, n - side)) for at, side, n in zip(place, sides, slide.shape, strict=True))
    try:
        pixels = slide.read_stored(y, x, *sides)
    except SlideError:
        return None
    rows, columns = (np.linspace(0, n, min(_CELLS, n), endpoint=False).astype(int) for n in sides)
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.int64), columns, axis=1)
    counts = np.outer(np.diff([*rows, sides[0]]), np.diff([*columns, sides[1]]))[..., None]
    means: NDArray[np.uint8] = (sums / counts).round().astype(np.uint8)
    return means.tobytes().hex()


def _alike(one: str, other: str) -> bool:
    a, b = (np.frombuffer(bytes.fromhex(colours), np.uint8).astype(int) for colours in (one, other))
    return len(a) == len(b) and bool(np.abs(a - b).max(initial=0) <= _SAME_COLOUR)
