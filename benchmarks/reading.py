"""Measure how fast pixels are read, compared with the JPEG decoder alone, OpenSlide and cuCIM.

    python benchmarks/reading.py [SLIDE] [--threads 1 2] [--megapixels 120] [--repeat 3]

SLIDE is a TIFF or SVS in JPEG tiles; by default the sample slide is drawn. The raw loop reads every tile with pread and decodes
it with jpeg8_decode into one buffer, nothing else. OpenSlide, and cuCIM if it is installed, read the same boxes with one
handle per thread. Readers are timed in turn; rates and ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import openslide
import tifffile

from napari_histoad import open_slide
from napari_histoad.samples import write_sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Box = tuple[int, int, int]
    Reader = Callable[[list[Box]], None]


def raw_reader(path: str) -> Reader:
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offsets, counts, tables = page.dataoffsets, page.databytecounts, page.jpegtables
        across = -(-page.imagewidth // page.tilewidth)
        side = page.tilewidth
        spaces = tifffile.tifffile.jpeg_decode_colorspace(page.photometric, page.planarconfig, page.extrasamples, page.is_jfif)
    fd = os.open(path, os.O_RDONLY)

    def read(boxes: list[Box]) -> None:
        out = np.empty((side, side, 3), np.uint8)
        for y, x, size in boxes:
            for row, column in itertools.product(range(y // side, (y + size) // side), range(x // side, (x + size) // side)):
                number = row * across + column
                data = os.pread(fd, counts[number], offsets[number])
                imagecodecs.jpeg8_decode(data, tables=tables, colorspace=spaces[0], outcolorspace=spaces[1], out=out)

    return read


def our_reader(path: str) -> Reader:
    slide = open_slide(path)

    def read(boxes: list[Box]) -> None:
        out = np.empty((boxes[0][2], boxes[0][2], 3), np.uint8)
        for y, x, size in boxes:
            slide.read(0, y, x, size, size, out=out)

    return read


def openslide_reader(path: str) -> Reader:
    def read(boxes: list[Box]) -> None:
        with openslide.OpenSlide(path) as slide:
            for y, x, size in boxes:
                np.asarray(slide.read_region((x, y), 0, (size, size)))[..., :3]

    return read


def cucim_reader(path: str) -> Reader:
    from cucim import CuImage

    def read(boxes: list[Box]) -> None:
        slide = CuImage(path)
        for y, x, size in boxes:
            np.asarray(slide.read_region((x, y), (size, size)))

    return read


def boxes_of(shape: tuple[int, int], size: int, shift: int, megapixels: float) -> list[Box]:
    """Return boxes in complete rows, the order in which a map reads."""
    rows = range(shift, shape[0] - size + 1, size)
    columns = range(shift, shape[1] - size + 1, size)
    most = max(1, round(megapixels * 1e6 / size**2 / len(columns)))
    return [(y, x, size) for y in itertools.islice(rows, most) for x in columns]


def timed(make: Callable[[str], Reader], path: str, boxes: list[Box], threads: int) -> float:
    """Return megapixels per second with cold caches, without the time to open the slide."""
    reader = make(path)
    shares = [list(itertools.islice(boxes, k, None, threads)) for k in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(reader, shares))
    return sum(size**2 for _, _, size in boxes) / 1e6 / (time.perf_counter() - started)


def cases(shape: tuple[int, int], tile: int, megapixels: float) -> Iterator[tuple[str, list[Box]]]:
    yield f"aligned {tile} px", boxes_of(shape, tile, 0, megapixels)
    yield f"aligned {2 * tile} px", boxes_of(shape, 2 * tile, 0, megapixels)
    yield f"unaligned {2 * tile} px", boxes_of(shape, 2 * tile, 2 * tile // 5, megapixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", nargs="?")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--megapixels", type=float, default=120)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = options.slide or str(write_sample(Path(scratch) / "sample.tif"))
        compare(path, options.threads, options.megapixels, options.repeat)


def compare(path: str, threads_wanted: list[int], megapixels: float, repeat: int) -> None:
    """Print the table of one slide."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        if not page.is_tiled or page.compression != 7:
            raise SystemExit(f"{path} is not in JPEG tiles")
        shape, tile = page.shape[:2], page.tilewidth
    readers = {"raw loop": raw_reader, "ours": our_reader, "OpenSlide": openslide_reader}
    try:
        import cucim  # noqa: F401

        readers["cuCIM"] = cucim_reader
    except ImportError:
        print("cuCIM is not installed")
    print(f"{'':<20}{'threads':>8}" + "".join(f"{name:>12}" for name in readers) + f"{'of raw':>9}{'x OpenSlide':>13}   (MP/s)")
    for (name, boxes), threads in itertools.product(cases(shape, tile, megapixels), threads_wanted):
        # The raw loop can only read complete tiles, so it reads the same number of aligned boxes.
        aligned = [(y - y % tile, x - x % tile, size) for y, x, size in boxes]
        rates: dict[str, list[float]] = {reader: [] for reader in readers}
        for _ in range(repeat):
            for reader, make in readers.items():
                rates[reader].append(timed(make, path, aligned if make is raw_reader else boxes, threads))
        middle = {reader: statistics.median(values) for reader, values in rates.items()}
        row = "".join(f"{middle[reader]:>12.0f}" for reader in readers)
        print(
            f"{name:<20}{threads:>8}{row}{middle['ours'] / middle['raw loop']:>9.2f}{middle['ours'] / middle['OpenSlide']:>13.1f}"
        )


if __name__ == "__main__":
    main()
