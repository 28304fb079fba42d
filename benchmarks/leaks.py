"""Check whether the tiles of a labelled set are independent of each other, and whether its groups keep related ones together.

    python benchmarks/leaks.py --data FOLDER [--sets oral colon …] [--seeds 5]

Each normal tile's nearest other normal tile, in texture and colour statistics, shows what is related: if it mostly has the next
file number, the group or the magnification of the tile itself, a split by file tests on siblings of the training tiles. The same
of test tiles and their nearest *training* tile, when split by group, shows what the groups do not keep together: it should be no
more frequent than by chance. A detector that lives on siblings loses where the third-nearest tile replaces the nearest.
"""

from __future__ import annotations

import argparse
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from rows import append_row, read_rows
from sklearn.metrics import roc_auc_score
from tile_sets import SETS, read_images, read_set

from napari_histoad.detectors import FeatureDetector, create_detector, features_of
from napari_histoad.tiles import near_duplicates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from tile_sets import TileTable

__all__ = ["check_set", "hash_distances", "number_of", "relations", "set_features", "shares"]

_NONE = -10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOAD_DATA"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("leaks.csv"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder with --data or HISTOAD_DATA")
    print(check_sets(Path(options.data), options.sets, options.seeds, options.out))


def check_sets(data: Path, names: list[str], seeds: int, out: Path) -> str:
    """Check sets that ``out`` does not list yet, and return the table."""
    for name in names:
        if name not in {row["set"] for row in read_rows(out)}:
            append_row(out, {"set": name, "seeds": seeds, **check_set(data, name, seeds)})
    return table([row for row in read_rows(out) if row["set"] in names])


def check_set(data: Path, name: str, seeds: int) -> dict[str, str]:
    """Return what relates the tiles of a set, as texts by column."""
    tiles = read_set(data, name)
    features = np.concatenate([set_features(data, name, kind).numpy() for kind in ("texture", "colour")], axis=1)
    normal = np.flatnonzero(~tiles.labels)
    related = relations(tiles)
    every = _nearest(features[normal], features[normal], same=True)[1][:, 0]
    row = {"by file": _text(shares(related, normal, normal[every], normal))}
    near: dict[str, list[float]] = {}
    chance: dict[str, list[float]] = {}
    aurocs, bits = [], []
    images = read_images(data, name, 1024)
    clusters = near_duplicates(images[normal])
    of_tile = np.full(len(tiles.labels), -1)
    of_tile[normal] = clusters
    copies = []
    for seed in range(seeds):
        learnt = tiles.learnt(seed)
        train, test = np.flatnonzero(learnt), np.flatnonzero(~learnt)
        distances, found = _nearest(features[test], features[train])
        held_out = ~tiles.labels[test]
        for key, (share, by_chance) in shares(related, test[held_out], train[found[held_out, 0]], train).items():
            near.setdefault(key, []).append(share)
            chance.setdefault(key, []).append(by_chance)
        aurocs.append([roc_auc_score(tiles.labels[test], distances[:, k]) for k in (0, 2)])
        bits.append(np.median(hash_distances(images[test[held_out]], images[train])))
        copies.append(np.isin(of_tile[test[held_out]], of_tile[train]).mean())
    row["by group"] = _text({key: (float(np.mean(near[key])), float(np.mean(chance[key]))) for key in near})
    first, third = np.mean(aurocs, axis=0)
    siblings = _hash_to_others(images[normal])
    return {
        **row,
        "hash bits": f"{np.median(siblings):.0f} → {np.mean(bits):.0f}",
        "copies": f"{np.mean(copies):.1%}",
        "1-NN": f"{first:.3f}",
        "3-NN": f"{third:.3f}",
    }


@lru_cache(maxsize=4)
def set_features(data: Path, name: str, kind: str, **settings: object) -> torch.Tensor:
    """Return the features of a closed-form detector for all tiles of a set, (N, D) float32."""
    images = read_images(data, name, 1024)
    detector = create_detector(kind, tile_px=images.shape[1], mpp=0.5, **settings)
    assert isinstance(detector, FeatureDetector)
    return features_of(detector.features, images, torch.device("cpu"))


def relations(tiles: TileTable) -> dict[str, NDArray[np.int64]]:
    """Return numbers (N,) by relation: tiles are related if theirs are equal, or differ by at most 1 for ``next number``."""
    found = {"group": np.unique(tiles.groups, return_inverse=True)[1]}
    for column in ("magnification", "verified"):
        if len(np.unique(tiles.columns[column])) > 1:
            found[column] = np.unique(tiles.columns[column], return_inverse=True)[1]
    names, numbers = zip(*(number_of(file) for file in tiles.files), strict=True)
    if min(numbers) >= 0:
        _, counts = np.unique(names, return_counts=True)
        if counts.min() > 2:  # otherwise the last number does not count files of a series
            found["next number"] = np.unique(names, return_inverse=True)[1] * 1_000_000 + np.array(numbers)
    return found


def number_of(file: str) -> tuple[str, int]:
    """Return the last number in a file's name, and the name without it; -10 if there is none.

    Examples
    --------
    >>> number_of("Normal/Normal_100x_78.jpg")
    ('Normal/Normal_100x_', 78)
    """
    stem = file.rpartition(".")[0]
    match = re.fullmatch(r"(.*?)(\d+)", stem)
    return (match[1], int(match[2])) if match else (stem, _NONE)


def shares(
    related: Mapping[str, NDArray[np.int64]], rows: NDArray[np.int64], nearest: NDArray[np.int64], among: NDArray[np.int64]
) -> dict[str, tuple[float, float]]:
    """Return by relation the share of tiles that are related to their nearest one, and the share expected by chance.

    Parameters
    ----------
    related : mapping of str to (N,) int64
        From `relations`.
    rows, nearest : (n,) int64
        Tiles, and the nearest one of each.
    among : (m,) int64
        Tiles of which the nearest ones were found; a tile is not its own neighbour.
    """
    found = {}
    for name, numbers in related.items():
        reach = 1 if name == "next number" else 0
        hits = np.abs(numbers[rows] - numbers[nearest]) <= reach
        pairs = np.abs(numbers[rows][:, None] - numbers[among]) <= reach
        itself = rows[:, None] == among
        found[name] = float(hits.mean()), float((pairs & ~itself).sum() / (~itself).sum())
    return found


def hash_distances(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many bits of the difference hash (Krawetz 2013) differ between each tile and the most similar of others.

    Parameters
    ----------
    images, others : (n, H, W, 3) and (m, H, W, 3) uint8

    Returns
    -------
    (n,) int64
        0 to 64; unrelated pictures differ in about 20 to 32 bits.
    """
    ours, theirs = _hash(images), _hash(others)
    return np.array([np.bitwise_count(theirs ^ code).min() for code in ours], np.int64)


def _hash_to_others(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    codes = _hash(images)
    return np.array([np.bitwise_count(np.delete(codes, k) ^ code).min() for k, code in enumerate(codes)], np.int64)


def _hash(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    small = [np.asarray(Image.fromarray(i).convert("L").resize((9, 8), Image.Resampling.BOX), np.int64) for i in images]
    bits = np.diff(np.array(small), axis=2) > 0
    return np.packbits(bits.reshape(len(images), -1), axis=1).view(np.uint64)[:, 0]


def _nearest(
    features: NDArray[np.float32], others: NDArray[np.float32], *, same: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return distances to the three nearest of others, and which these are, both (n, 3); z-scored by the others."""
    mean, scale = others.mean(0), others.std(0) + 1e-6
    a, b = torch.from_numpy((features - mean) / scale), torch.from_numpy((others - mean) / scale)
    distances = torch.cdist(a, b)
    if same:
        distances.fill_diagonal_(torch.inf)
    values, found = distances.topk(3, largest=False)
    return values.double().numpy(), found.numpy()


def _text(found: dict[str, tuple[float, float]]) -> str:
    return ", ".join(f"{name} {share:.1%} ({chance:.1%})" for name, (share, chance) in found.items())


def table(rows: list[dict]) -> str:
    """Return a Markdown table."""
    heads = [
        "set",
        "nearest normal tile has the same … (by chance): split by file",
        "split by group",
        "median hash bits to the most similar normal tile: any → in training",
        "test normals with a near-duplicate in training",
        "AUROC, nearest",
        "third-nearest",
    ]
    columns = ("set", "by file", "by group", "hash bits", "copies", "1-NN", "3-NN")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row[c] for c in columns) + " |" for row in rows)])


if __name__ == "__main__":
    main()
