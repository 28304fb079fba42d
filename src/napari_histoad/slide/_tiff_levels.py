"""The pages of a TIFF that are levels of its pyramid, and their exact geometry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_histoad.slide._base import Level

if TYPE_CHECKING:
    import tifffile

_SLACK_PX = 1.0
"""Tolerance in pixels: writers round the sizes of levels down, up or to the nearest, some once per level."""
_LOOKS_LIKE_A_LEVEL = 0.1
_MOST_HALVINGS = 12


def place_levels(pages: list[tifffile.TiffPage]) -> tuple[list[int], tuple[Level, ...], list[str]]:
    """Return the indices of the pages that are levels, the levels, and notes on pages that were left out.

    The pages are level 0, then candidates from large to small, labels and macros among them. Some writers round the sizes of
    coarser levels up to whole tiles. Such a level is 2^n times smaller than level 0, and its padding is cut off; the ratio of the
    stated sizes would shift its pixels by up to several percent.
    """
    height, width = pages[0].imagelength, pages[0].imagewidth
    kept, levels, notes = [0], [Level((height, width), (1.0, 1.0))], []
    for index, page in enumerate(pages[1:], start=1):
        if page.imagewidth >= pages[kept[-1]].imagewidth or page.samplesperpixel != pages[0].samplesperpixel:
            continue
        level = _place((height, width), page, levels)
        if level is not None:
            kept.append(index)
            levels.append(level)
        elif _looks_like_a_level((height, width), page):
            size = f"{page.imagewidth:,} x {page.imagelength:,} px"
            notes.append(f"A level of {size} was left out: it does not fit the slide's {width:,} x {height:,} px.")
    return kept, tuple(levels), notes


def _place(full: tuple[int, int], page: tifffile.TiffPage, finer: list[Level]) -> Level | None:
    stated = page.imagelength, page.imagewidth
    exact = Level(stated, (full[0] / stated[0], full[1] / stated[1]))
    low, high = _ratios(full, stated)
    if math.ceil(low) <= high:
        return exact
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (1, 1)
    padded = [n for n in range(1, _MOST_HALVINGS + 1) if _rounded_up(full, 2**n, tile) == stated]
    if padded:
        step = 2 ** _choose(padded, finer)
        return Level((-(-full[0] // step), -(-full[1] // step)), (float(step), float(step)))
    return exact if low <= high else None


def _ratios(full: tuple[int, int], stated: tuple[int, int]) -> tuple[float, float]:
    """Return the smallest and largest downsample that explain both sides of a level, given rounding."""
    sides = list(zip(full, stated, strict=True))
    low = max(n / (m + _SLACK_PX) for n, m in sides)
    return low, min(n / (m - _SLACK_PX) if m > _SLACK_PX else math.inf for n, m in sides)


def _rounded_up(full: tuple[int, int], step: int, tile: tuple[int, int]) -> tuple[int, int]:
    height, width = (math.ceil(math.ceil(n / step) / side) * side for n, side in zip(full, tile, strict=True))
    return height, width


def _choose(halvings: list[int], finer: list[Level]) -> int:
    """Return the number of halvings that continues the finer levels' series: for a level of one tile several are possible."""
    so_far = [round(math.log2(level.downsample)) for level in finer]
    expected = 2 * so_far[-1] - so_far[-2] if len(so_far) > 1 else halvings[0]
    return min((n for n in halvings if n > so_far[-1]), key=lambda n: abs(n - expected), default=halvings[0])


def _looks_like_a_level(full: tuple[int, int], page: tifffile.TiffPage) -> bool:
    ratio_y, ratio_x = full[0] / page.imagelength, full[1] / page.imagewidth
    return page.is_tiled and abs(ratio_y - ratio_x) <= _LOOKS_LIKE_A_LEVEL * ratio_y
