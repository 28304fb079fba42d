"""Measure how well maps show where anomalies are: by cell of the map, by outlined anomaly and per mm² of normal tissue.

    python benchmarks/localisation.py --data FOLDER [--methods colour texture] [--cases camelyon16 fields colon …] [--seeds 3]

FOLDER (default: HISTOAD_DATA) holds ``slides``, ``annotations`` and ``patches``. Slides are trained on, mapped and evaluated with
the public functions of the package.

camelyon16
    The overview of tumor_001 at 7.8 µm per pixel, with two metastases of 0.6 mm. Trained on one part of the slide, mapped and
    evaluated on the other. Seeds are parts: rows above and below the middle, columns left and right of it, a band of rows.
fields
    Fields of lung cancer with masks (WSSS4LUAD): trained on the stroma of 60% of the fields, tumour against stroma in the others.
    Their patients are unknown and may be on both sides.
colon, glas, breast, oral
    Generated slides of 1.2 mm²: real normal tiles, group by group, with three patches of real anomalous tiles woven in (3 x 3
    tiles, 2 x 2 tiles and an ellipse, each of one group). Trained on a slide of normal tiles of other groups, made in the same
    way, so that the seams between tiles are known.

Rows are appended to a csv as they are measured, so that a stopped run continues; the table is printed at the end.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import shapely
import shapely.affinity
import tifffile
from accuracy import METHODS
from PIL import Image
from rows import append_row, read_rows
from shapely.geometry import box
from tile_sets import read_images, read_set

import napari_histoad as ha
from napari_histoad.evaluation import binned_auroc, binned_average_precision, binned_interval, cell_scores
from napari_histoad.regions import Region

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_histoad.evaluation import CellScores, Evaluation

CAMELYON_MPP = 0.243 * 32
"""µm per pixel of level 5; the file states none."""
TUMOUR, STROMA = 0, 1
WOVEN = ("colon", "glas", "breast", "oral")
WOVEN_PX = 128
WOVEN_TILES = 17
WOVEN_MPP = 0.5
KEY = ("case", "seed", "method")


def main() -> None:
    cases = {"camelyon16": camelyon16, "fields": fields, **dict.fromkeys(WOVEN, woven)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOAD_DATA"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["colour", "texture"])
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("localisation.csv"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder with --data or HISTOAD_DATA")
    done = {tuple(row[k] for k in KEY) for row in read_rows(options.out)}
    for case in options.cases:
        for seed in range(options.seeds):
            for method in options.methods:
                if (case, str(seed), method) in done:
                    continue
                with tempfile.TemporaryDirectory() as scratch:
                    row = cases[case](Path(options.data), case, method, seed, Path(scratch))
                append_row(options.out, {"case": case, "seed": seed, "method": method, **row})
                print(case, seed, method, row, flush=True)
    print(table(read_rows(options.out)))


def camelyon16(data: Path, case: str, method: str, seed: int, folder: Path) -> dict[str, object]:  # noqa: ARG001
    """Train on a part of the slide and measure on the rest."""
    slide = data / "slides" / "camelyon16_tumor_001_level5.tif"
    with ha.open_slide(slide, slide_mpp=CAMELYON_MPP) as opened:
        height, width = opened.shape
    whole = box(0, 0, height, width)
    middle = ha.read_regions(data / "annotations" / "camelyon16_tumor_001_level5.geojson")
    rows, columns = (sum(r.geometry.centroid.coords[0][k] for r in middle) / len(middle) for k in (0, 1))
    tested = [
        box(height / 2, 0, height, width),
        box(0, width / 2, height, width) if columns > width / 2 else box(0, 0, height, width / 2),
        box(rows - 1000, 0, rows + 1000, width),
    ][seed % 3]
    normal = [Region(whole.difference(tested), "Normal")]
    detector = _train(method, slide, folder, normal=normal, tile_px=64, mpp=CAMELYON_MPP, slide_mpp=CAMELYON_MPP)
    result = ha.map_slide(
        slide, folder, model=detector, slide_mpp=CAMELYON_MPP, regions=[Region(tested)], cell_um=CAMELYON_MPP * 8
    )
    return figures(ha.evaluate(result, middle))


def fields(data: Path, case: str, method: str, seed: int, folder: Path) -> dict[str, object]:  # noqa: ARG001
    """Train on the stroma of some fields and measure tumour against stroma in the others."""
    source = data / "patches" / "wsss4luad_fields"
    names = sorted(path.name for path in (source / "img").iterdir())
    order = np.random.default_rng(seed).permutation(names)
    masks = {name: np.asarray(Image.open(source / "mask" / name)) for name in names}
    trained = [name for name in order[: int(0.6 * len(names))] if (masks[name] == STROMA).mean() > 0.2]
    tested = [name for name in order[int(0.6 * len(names)) :] if np.isin(masks[name], (TUMOUR, STROMA)).any()]
    normal = [[region_of(masks[name] == STROMA, "Normal")] for name in trained]
    detector = _train(method, [source / "img" / n for n in trained], folder, normal=normal, tile_px=64, mpp=1.0, slide_mpp=1.0)
    parts: list[CellScores] = []
    for name in tested:
        result = ha.map_slide(source / "img" / name, folder, model=detector, slide_mpp=1.0)
        tumour = [region_of(masks[name] == TUMOUR, "Tumor")] if (masks[name] == TUMOUR).any() else []
        rest = ~np.isin(masks[name], (TUMOUR, STROMA))
        parts.append(cell_scores(result, tumour, [region_of(rest)] if rest.any() else []))
    labels, scores = (np.concatenate([getattr(part, column) for part in parts]) for column in ("anomalous", "scores"))
    of_field = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    return {
        **_cells(*(binned_interval(metric, labels, scores, of_field) for metric in (binned_auroc, binned_average_precision))),
        "anomalous": round(float(labels.mean()), 4),
        **dict.fromkeys(_MAPPED, ""),
    }


def woven(data: Path, case: str, method: str, seed: int, folder: Path) -> dict[str, object]:
    """Train on a slide of normal tiles and measure on one of other groups with patches of anomalous tiles."""
    tiles, images = read_set(data, case), read_images(data, case, WOVEN_PX)
    learnt, rng = tiles.learnt(seed), np.random.default_rng(seed)
    normal, held_out = (by_group(np.flatnonzero(rows), tiles.groups, rng) for rows in (learnt, ~learnt & ~tiles.labels))
    new = tiles.labels & tiles.new_to(learnt)
    anomalous = np.flatnonzero(new if new.any() else tiles.labels)
    ground, _ = weave(images, normal, rng, WOVEN_TILES)
    slide, lesions = weave(images, held_out, rng, WOVEN_TILES, patches(anomalous, tiles.groups, rng, WOVEN_TILES))
    for name, pixels in (("normal.tif", ground), ("test.tif", slide)):
        per_cm = 1e4 / WOVEN_MPP
        options = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
        tifffile.imwrite(folder / name, pixels, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", **options)
    detector = _train(method, folder / "normal.tif", folder, tile_px=WOVEN_PX, mpp=WOVEN_MPP)
    return figures(ha.evaluate(ha.map_slide(folder / "test.tif", folder, model=detector), lesions))


def _train(method: str, slides: object, folder: Path, **options: object):
    chosen = METHODS[method]
    return ha.train(slides, folder / "detector.safetensors", detector=chosen.detector, **options, **chosen.settings)


class Patch(NamedTuple):
    """Anomalous tiles to be woven into a slide.

    Attributes
    ----------
    row, column : int
        Where it begins, in tiles.
    side : int
        Tiles down and across.
    round : bool
        Whether only an ellipse of it is pasted.
    tiles : (n,) int64
        Tiles to take, repeatedly if they are fewer than needed.
    """

    row: int
    column: int
    side: int
    round: bool
    tiles: NDArray[np.int64]


def by_group(rows: NDArray[np.int64], groups: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return tiles group by group, the groups and the tiles in them in random order."""
    names = rng.permutation(np.unique(groups[rows]))
    return np.concatenate([rng.permutation(rows[groups[rows] == name]) for name in names])


def patches(rows: NDArray[np.int64], groups: NDArray[np.str_], rng: np.random.Generator, count: int) -> list[Patch]:
    """Return three patches at random places of a slide of ``count`` x ``count`` tiles, at least two tiles apart."""
    free = np.ones((count, count), bool)
    found = []
    for side, is_round in ((4, True), (3, False), (2, False)):
        fits = [
            (y, x)
            for y in range(1, count - side)
            for x in range(1, count - side)
            if free[max(y - 2, 0) : y + side + 2, max(x - 2, 0) : x + side + 2].all()
        ]
        y, x = fits[rng.integers(len(fits))]
        free[y : y + side, x : x + side] = False
        group = rng.choice(np.unique(groups[rows]))
        found.append(Patch(y, x, side, is_round, rng.permutation(rows[groups[rows] == group])))
    return found


def weave(
    images: NDArray[np.uint8], rows: NDArray[np.int64], rng: np.random.Generator, count: int, pasted: Iterable[Patch] = ()
) -> tuple[NDArray[np.uint8], list[Region]]:
    """Return a slide of ``count`` x ``count`` tiles, and the outlines of what is pasted into it.

    Tiles are laid row by row; where they are fewer than needed, they come again, each time turned or flipped at random.

    Parameters
    ----------
    images : (N, s, s, 3) uint8
    rows : (n,) int64
        Tiles of the ground.
    rng : Generator
    count : int
        Tiles down and across.
    pasted : iterable of Patch
    """
    side = images.shape[1]
    slide = _sheet(images, rows, rng, count)
    outlines = []
    for patch in pasted:
        y0, x0, length = patch.row * side, patch.column * side, patch.side * side
        area = slide[y0 : y0 + length, x0 : x0 + length]
        sheet = _sheet(images, patch.tiles, rng, patch.side)
        outline = box(y0, x0, y0 + length, x0 + length)
        if patch.round:
            y, x = (np.mgrid[:length, :length] + 0.5) / (length / 2) - 1
            inside = y**2 + (x / 0.75) ** 2 <= 1
            area[inside] = sheet[inside]
            circle = shapely.Point(y0 + length / 2, x0 + length / 2).buffer(length / 2, quad_segs=32)
            outline = shapely.affinity.scale(circle, 1, 0.75)  # shapely's y is our x
        else:
            area[...] = sheet
        outlines.append(Region(outline, "Anomalous"))
    return slide, outlines


def _sheet(images: NDArray[np.uint8], rows: NDArray[np.int64], rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    laid = []
    for k in range(count**2):
        tile = images[rows[k % len(rows)]]
        if k >= len(rows):
            tile = np.rot90(tile[:, :: rng.choice([1, -1])], rng.integers(4))
        laid.append(tile)
    side = images.shape[1]
    return np.array(laid).reshape(count, count, side, side, 3).swapaxes(1, 2).reshape(count * side, count * side, 3)


def region_of(mask: NDArray[np.bool_], name: str = "", step: int = 4) -> Region:
    """Return the outline of a mask, made of squares of ``step`` pixels of which more than half is set (or any, if none is)."""
    height, width = (-(-n // step) for n in mask.shape)
    padded = np.zeros((height * step, width * step))
    padded[: mask.shape[0], : mask.shape[1]] = mask
    share = padded.reshape(height, step, width, step).mean((1, 3))
    y, x = step * np.array(np.nonzero(share > 0.5 if (share > 0.5).any() else share > 0))
    return Region(shapely.union_all(shapely.box(y, x, y + step, x + step)), name)


def _cells(auroc: object, precision: object) -> dict[str, object]:
    texts = {"cell AUROC": auroc, "cell AP": precision}
    return {f"{name}{end}": round(getattr(v, a), 4) for name, v in texts.items() for end, a in _ENDS}


_ENDS = (("", "value"), (" low", "low"), (" high", "high"))
_MAPPED = (
    "tile AUROC",
    "found",
    "of",
    "area flagged",
    "normal area flagged",
    "false regions per mm²",
    "found at 0.1 per mm²",
    "found at 1 per mm²",
    "found at 10 per mm²",
)


def figures(found: Evaluation) -> dict[str, object]:
    """Return the figures of a map by column."""
    assert found.cell_auroc is not None
    share = found.anomalous_tiles / found.tiles
    values = [
        round(found.auroc.value, 4),
        found.lesions_found,
        found.lesions,
        *(round(v, 4) for v in (found.area_flagged, found.normal_area_flagged, found.false_regions_per_mm2)),
        *(round(share, 3) for share in found.found_per_mm2.values()),
    ]
    cells = _cells(found.cell_auroc, found.cell_average_precision)
    return {**cells, "anomalous": round(share, 4), **dict(zip(_MAPPED, values, strict=True))}


def table(rows: list[dict]) -> str:
    """Return the means over seeds as a Markdown table; found and outlined anomalies are summed."""
    heads = ["case", "method", "maps", "cell AUROC (lowest to highest)", "cell AP", "anomalous", *_MAPPED]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for key in dict.fromkeys((row["case"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["case"], row["method"]) == key]
        auroc = [float(row["cell AUROC"]) for row in mine]
        cells = [*key, str(len(mine)), f"{np.mean(auroc):.3f} ({min(auroc):.3f} to {max(auroc):.3f})"]
        cells += [f"{np.mean([float(row[column]) for row in mine]):.3f}" for column in ("cell AP", "anomalous")]
        for column in _MAPPED:
            values = [float(row[column]) for row in mine if row[column]]
            count = column in ("found", "of")
            cells.append("–" if not values else f"{sum(values):.0f}" if count else f"{np.mean(values):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
