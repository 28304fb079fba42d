"""Labelled tiles that a small network can tell apart."""

import numpy as np

from napari_histoad.engine import LabelledTiles
from napari_histoad.tiles import TilePlace, TileSet


def labelled(n, seed=0, side=64, classes=("normal", "anomalous")):
    """Tiles of as many classes, told apart by how fine their stripes are; ten groups."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    x = np.arange(side)
    images = np.empty((n, side, side, 3), np.uint8)
    for image, label in zip(images, labels, strict=True):
        wave = np.sin(2 * np.pi * (x[:, None] + x) / (24 / (1 + label)) + rng.uniform(0, 6))
        image[:] = (150 + 60 * wave[..., None] + rng.normal(0, 12, (side, side, 3))).clip(0, 255)
    places = tuple(TilePlace(f"{k}.png") for k in range(n))
    return LabelledTiles(TileSet(images, rng.permutation(n) % 10, ("made.csv",), places), labels, classes, 0.5)
