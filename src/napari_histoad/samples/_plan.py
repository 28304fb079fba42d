"""The layout of the sample slide: tissue, fat, glands and synthetic anomalies, without pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from shapely.geometry import Polygon

from napari_histoad.errors import SettingsError
from napari_histoad.regions import Region
from napari_histoad.samples._noise import value_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANOMALY_NAMES = ("Pleomorphic sheet", "Necrosis", "Foam cells")
"""The kinds of synthetic anomalies, in the order in which they are used."""

SIZE_RANGE = (1024, 100_000)
_OUTLINE_VERTICES = 160


@dataclass(frozen=True)
class SlidePlan:
    """The layout of a sample slide, determined by its size and seed.

    Attributes
    ----------
    size_px : int
        Height and width in level-0 pixels, 1,024 to 100,000.
    seed : int
        Each seed gives the tissue of another "patient".
    anomalies : bool
        Whether anomalies are drawn; without them the slide is a normal control.
    mpp : float
        µm per level-0 pixel.
    """

    size_px: int = 8192
    seed: int = 0
    anomalies: bool = True
    mpp: float = 0.5

    def __post_init__(self) -> None:
        low, high = SIZE_RANGE
        if not low <= self.size_px <= high:
            raise SettingsError(f"a sample slide of {self.size_px} px cannot be drawn", f"choose {low:,} to {high:,} px")

    def salt(self, name: str) -> int:
        """Return the seed of one named source of random numbers."""
        return self.seed * 1_000_003 + sum((i + 1) * 257 * ord(c) for i, c in enumerate(name))

    def noise(self, y: NDArray[np.float64], x: NDArray[np.float64], scale: float, name: str) -> NDArray[np.float32]:
        """Return smooth noise in [0, 1] on the grid of the axes ``y`` and ``x``."""
        return value_noise(y, x, scale, self.salt(name))

    def tissue(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the depth of each point in the tissue: above 0 inside, about 1 at the centre."""
        half = self.size_px / 2
        u, v = (x[None, :] - half) / half, (y[:, None] - half) / half
        depth = 1 - np.sqrt((u / 0.80) ** 2 + (v / 0.72) ** 2)
        ragged = self.noise(y, x, self.size_px / 6, "edge") - 0.5 + 0.25 * (self.noise(y, x, 400, "fray") - 0.5)
        return (depth + 0.35 * ragged).astype(np.float32)

    def fat(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return how fatty the tissue is: fat above 0."""
        return self.noise(y, x, max(900.0, self.size_px / 7), "fat") - 0.70

    def glandular(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return how glandular the tissue is: glands above 0."""
        return self.noise(y, x, max(700.0, self.size_px / 9), "glands") - 0.42

    @cached_property
    def planted(self) -> tuple[Region, ...]:
        """The synthetic anomalies with their exact outlines."""
        if not self.anomalies:
            return ()
        rng = np.random.default_rng(self.salt("anomalies"))
        count = int(np.clip(round(self.size_px / 8192 * 9), 3, 60))
        regions: list[Region] = []
        discs: list[tuple[float, float, float]] = []
        for attempt in range(4000):
            if len(regions) == count:
                break
            shrink = 0.5 if attempt > 2000 else 1.0
            radius = shrink * float(rng.uniform(0.7, 1.3)) * min(430.0, self.size_px / 11)
            cy, cx = rng.uniform(0.12, 0.88, 2) * self.size_px
            axis_y, axis_x = cy + np.linspace(-radius, radius, 9), cx + np.linspace(-radius, radius, 9)
            clear = all(np.hypot(cy - a, cx - b) > 1.6 * (radius + r) for a, b, r in discs)
            if clear and self.tissue(axis_y, axis_x).min() > 0.04 and self.fat(axis_y, axis_x).max() < 0:
                name = ANOMALY_NAMES[len(regions) % len(ANOMALY_NAMES)]
                regions.append(Region(_blob(cy, cx, radius, rng), name))
                discs.append((cy, cx, radius))
        return tuple(regions)

    @cached_property
    def normal(self) -> tuple[Region, ...]:
        """Some outlines of normal tissue, as a user would draw them."""
        rng = np.random.default_rng(self.salt("normal"))
        side = min(520.0, self.size_px / 12)
        regions: list[Region] = []
        fatty = 0
        for _ in range(3000):
            if len(regions) == 14:
                break
            cy, cx = rng.uniform(0.1, 0.9, 2) * self.size_px
            outline = _blob(cy, cx, side * float(rng.uniform(0.7, 1.1)), rng)
            axis_y, axis_x = cy + np.linspace(-side, side, 9), cx + np.linspace(-side, side, 9)
            is_fat = bool((self.fat(axis_y, axis_x) > 0).mean() > 0.3)
            taken = [region.geometry for region in (*self.planted, *regions)]
            clear = all(outline.distance(other) > 20 for other in taken)
            if self.tissue(axis_y, axis_x).min() > 0.0 and clear and not (is_fat and fatty >= 4):
                fatty += is_fat
                regions.append(Region(outline, "Normal"))
        return tuple(regions)


def _blob(cy: float, cx: float, radius: float, rng: np.random.Generator) -> Polygon:
    turn = np.linspace(0, 2 * np.pi, _OUTLINE_VERTICES, endpoint=False)
    r = np.ones_like(turn)
    for k in range(2, 7):
        r += float(rng.uniform(0, 0.28)) / k * np.cos(k * turn + float(rng.uniform(0, 2 * np.pi)))
    return Polygon(np.stack([cy + radius * r * np.sin(turn), cx + radius * r * np.cos(turn)], axis=1))
