"""Finding near-duplicate tiles: copies that may be rotated, flipped, brightened or compressed again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE = 16
_ALIKE_BITS = 48
"""Bits of 512. Different tissue differs in about 240, in the most similar of 8 orientations in about 200; copies in few."""
_FLAT = 2.0
"""Difference in grey levels between neighbouring means; smaller differences are noise, as on glass."""


def near_duplicates(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the cluster number (N,) int64 of each tile (N, H, W, 3) uint8; near-duplicates share a cluster.

    Uses a difference hash (Krawetz 2013): whether each of 16 x 16 means is darker than its neighbours, compared in all eight
    orientations. Clusters are connected components.
    """
    count = len(images)
    small = np.stack([_small(image) for image in images]) if count else np.empty((0, _SIDE, _SIDE), np.float32)
    turned = [np.rot90(side, k, (1, 2)) for side in (small, small[:, :, ::-1]) for k in range(4)]
    hashes = [_hash(pictures) for pictures in turned]
    cluster = np.arange(count)
    for k in range(count):
        distance = np.min([np.bitwise_count(codes[k:] ^ hashes[0][k]).sum(axis=1) for codes in hashes], axis=0)
        same = np.unique(cluster[k:][distance <= _ALIKE_BITS])
        if len(same) > 1:
            cluster[np.isin(cluster, same)] = same[0]
    return np.unique(cluster, return_inverse=True)[1].astype(np.int64)


def _small(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    shrunk = Image.fromarray(image).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(shrunk, np.float32)


def _hash(pictures: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return the hashes (N, 8) uint64: for each mean, whether it is darker than its right and than its lower neighbour."""
    right = np.roll(pictures, -1, axis=2) - pictures > _FLAT
    below = np.roll(pictures, -1, axis=1) - pictures > _FLAT
    bits = np.stack([right, below], axis=1).reshape(len(pictures), -1)
    return np.packbits(bits, axis=1).view(np.uint64)
