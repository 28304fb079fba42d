"""Compare the peak memory of mapping the same tissue on a small and on a huge slide.

    python benchmarks/memory.py [--sides 10000 100000] [--tissue 4096]

Each slide has one patch of tissue on glass and is mapped with the starter model in its own process. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from huge_slides import TILE, encode, write_pyramid

from napari_histoad.samples import SlidePlan
from napari_histoad.samples._draw import draw_block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_CHILD = """
import sys
from pathlib import Path
from napari_histoad import map_slide
from napari_histoad.detectors import starter_path
result = map_slide(sys.argv[1], sys.argv[2], model=starter_path(), device="cpu")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(len(result), int(status["VmHWM"].split()[0]) // 1024)  # getrusage would also count the parent process
"""


def write_slide(path: Path, side: int, tissue: NDArray[np.uint8]) -> None:
    """Write a pyramid with tissue in the top left corner and glass elsewhere."""
    glass = encode(np.full((TILE, TILE, 3), 243, np.uint8))

    def tiles(level: int, across: int) -> Iterator[bytes]:
        patch = tissue[:: 4**level, :: 4**level]
        padded = np.pad(patch, ((0, -patch.shape[0] % TILE), (0, -patch.shape[1] % TILE), (0, 0)), constant_values=243)
        for y in range(0, across * TILE, TILE):
            for x in range(0, across * TILE, TILE):
                inside = y < padded.shape[0] and x < padded.shape[1]
                yield encode(padded[y : y + TILE, x : x + TILE]) if inside else glass

    write_pyramid(path, side, tiles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--tissue", type=int, default=4096)
    options = parser.parse_args()
    tissue = draw_block(SlidePlan(8192), 2000, 2000, options.tissue, options.tissue)
    peaks = []
    with tempfile.TemporaryDirectory() as scratch:
        for side in options.sides:
            path = Path(scratch) / f"{side}.tif"
            write_slide(path, side, tissue)
            output = subprocess.run(
                [sys.executable, "-c", _CHILD, str(path), scratch], check=True, capture_output=True, text=True
            ).stdout.split()
            peaks.append(int(output[1]))
            print(f"{side:>9,}² pixels: {int(output[0]):,} tiles, peak {peaks[-1]:,} MB", flush=True)
    print(f"largest to smallest: {max(peaks) / min(peaks):.3f}")


if __name__ == "__main__":
    main()
