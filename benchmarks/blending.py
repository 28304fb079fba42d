"""Measure whether the blended map flags normal tissue as often as single tiles do, on a detector's own thresholds.

    python benchmarks/blending.py [--data FOLDER] [--methods colour texture] [--slides sample-0 sample-1 skin lymph-node]

The anomaly map is a mean over overlapping tiles, which varies less than single tiles: at a tile-wise 1% it flags 0.1 to 0.2% of
white noise. Normal tissue of a slide is cut into squares of four tiles. Half of them train a detector; the others, which it has
not seen, are mapped at half a tile and split at random, fifty times, into squares that set a threshold and squares that are
flagged: by a threshold of tiles or of cells of the map, and as tiles or cells. The last two columns are the share of the map in
all these squares above the thresholds that come with the detector: of its calibration tiles, and of these blended as in a map.

sample-N
    The generated sample slide of 4,096 px with seed N, outside its synthetic anomalies.
skin, lymph-node
    CMU-1-Small-Region, all of it, and the overview of Camelyon16's tumor_001 outside its metastases, in FOLDER (default:
    HISTOAD_DATA).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from shapely.geometry import box

import napari_histoad as ha
from napari_histoad.calibration import Calibration
from napari_histoad.regions import Region, coverage, read_regions
from napari_histoad.samples import SlidePlan, write_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RATES = (0.01, 0.05)
SPLITS = 50
SIDE = 4
"""Tiles along a side of a square."""
_LYMPH_NODE_MPP = 0.243 * 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOAD_DATA"))
    parser.add_argument("--methods", nargs="+", default=["colour", "texture"])
    parser.add_argument("--slides", nargs="+", default=["sample-0", "sample-1", "skin", "lymph-node"])
    options = parser.parse_args()
    print("| slide | detector | squares | nominal | tiles by tiles | map by tiles | map by map | trained: tiles | trained: map |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.slides:
        with tempfile.TemporaryDirectory() as scratch:
            path, mpp, tile_px, anomalies = _slide(name, options.data, Path(scratch))
            for method in options.methods:
                measure(name, path, mpp, tile_px, anomalies, method, Path(scratch))


def _slide(name: str, data: Path | None, scratch: Path) -> tuple[Path, float, int, Sequence[Region]]:
    """Return the path of a slide, its µm per pixel, the tile size and its anomalies."""
    if name.startswith("sample-"):
        seed = int(name.removeprefix("sample-"))
        return write_sample(scratch / f"{name}.tif", 4096, seed), 0.5, 64, SlidePlan(4096, seed).planted
    if data is None:
        raise SystemExit("name the data folder with --data or HISTOAD_DATA")
    if name == "skin":
        return data / "slides" / "CMU-1-Small-Region.svs", 0.499, 64, ()
    found = read_regions(data / "annotations" / "camelyon16_tumor_001_level5.geojson")
    return data / "slides" / "camelyon16_tumor_001_level5.tif", _LYMPH_NODE_MPP, 64, found


def measure(name: str, path: Path, mpp: float, tile_px: int, anomalies: Sequence[Region], method: str, scratch: Path) -> None:
    """Print the rows of a slide and a detector."""
    squares = _squares(path, mpp, tile_px, anomalies)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(squares))
    trained, unseen = ([squares[k] for k in part] for part in np.array_split(order, 2))
    settings = {"mpp": mpp, "tile_px": tile_px, "device": "cpu", "slide_mpp": mpp}
    model = scratch / f"{method}.safetensors"
    ha.train(path, model, normal=trained, detector=method, **settings)
    result = ha.map_slide(path, scratch / method, model=model, slide_mpp=mpp, regions=unseen, device="cpu")
    scores = result.scores
    inside = np.array([coverage(result.boxes, [square]) for square in unseen])
    tiles = [scores[(part >= 0.5) & ~np.isnan(scores)] for part in inside]
    field, side = result.score_field(), result.geometry.cell_l0
    cells = [_cells(field, side, square) for square in unseen]
    unseen_cells = np.concatenate(cells)
    for rate in RATES:
        shipped = [(unseen_cells > of(rate)).mean() for of in (result.calibration.threshold, result.calibration.field_threshold)]
        shares = np.array([_split(tiles, cells, rate, rng) for _ in range(SPLITS)])
        words = [f"{mean:.2%} ± {spread:.2%}" for mean, spread in zip(shares.mean(axis=0), shares.std(axis=0), strict=True)]
        words += [f"{share:.2%}" for share in shipped]
        print(f"| {name} | `{method}` | {len(squares)} | {rate:.0%} | {' | '.join(words)} |", flush=True)


def _squares(path: Path, mpp: float, tile_px: int, anomalies: Sequence[Region]) -> list[Region]:
    """Return the squares of a grid that are mostly tissue and touch no anomaly."""
    with ha.open_slide(path, slide_mpp=mpp) as slide:
        tissue = ha.find_tissue(slide)
        height, width = slide.shape
    side, found = SIDE * tile_px, []
    for y in range(0, height - side + 1, side):
        for x in range(0, width - side + 1, side):
            square = box(y, x, y + side, x + side)
            rows, columns = (slice(int(v / s), int((v + side) / s)) for v, s in zip((y, x), tissue.scale_yx, strict=True))
            if tissue.mask[rows, columns].mean() > 0.7 and not any(a.geometry.intersects(square) for a in anomalies):
                found.append(Region(square, "Normal"))
    return found


def _cells(field: NDArray[np.float32], side: float, square: Region) -> NDArray[np.float32]:
    y0, x0, y1, x1 = (round(v / side) for v in square.geometry.bounds)
    values = field[y0:y1, x0:x1]
    return np.asarray(values[~np.isnan(values)])


def _split(
    tiles: list[NDArray[np.float32]], cells: list[NDArray[np.float32]], rate: float, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the flagged shares of half of the squares, by thresholds that the others set."""
    order = rng.permutation(len(tiles))
    setting, flagged = order[: len(order) // 2], order[len(order) // 2 :]
    by_tiles, by_cells = (
        Calibration.from_scores(np.concatenate([values[k] for k in setting])).threshold(rate) for values in (tiles, cells)
    )
    of_tiles, of_cells = (np.concatenate([values[k] for k in flagged]) for values in (tiles, cells))
    return (of_tiles > by_tiles).mean(), (of_cells > by_tiles).mean(), (of_cells > by_cells).mean()


if __name__ == "__main__":
    main()
