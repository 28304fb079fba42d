"""Drawing the pixels of the sample slide: amounts of haematoxylin and eosin, then light absorption (Beer–Lambert)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import shapely
from scipy import ndimage
from skimage.draw import polygon2mask

from napari_histoad.samples._noise import uniform
from napari_histoad.samples._plan import ANOMALY_NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.samples._plan import SlidePlan

T = TypeVar("T", bound=np.generic)

_HAEMATOXYLIN = np.array([0.650, 0.704, 0.286], np.float32)  # Ruifrok & Johnston 2001, optical density of R, G, B
_EOSIN = np.array([0.110, 0.900, 0.460], np.float32)  # pinker than theirs, as modern scanners show it
_INK = np.array([0.95, 0.55, 0.10], np.float32)
_GLASS = 243.0
_MARGIN = 64
_GLAND_CELL, _NUCLEUS_CELL, _FAT_CELL, _FOAM_CELL = 300, 15, 84, 22
_STAMPS, _STAMP_PX = 96, 49


@cache
def _stamps(kind: str) -> NDArray[np.float32]:
    """Return ``_STAMPS`` images (S, 49, 49) in [0, 1] of one kind of nucleus."""
    rng = np.random.default_rng({"spindle": 1, "round": 2, "epithelial": 3, "tumour": 4, "debris": 5}[kind])
    out = np.zeros((_STAMPS, _STAMP_PX, _STAMP_PX), np.float32)
    v, u = np.mgrid[:_STAMP_PX, :_STAMP_PX].astype(np.float32) - _STAMP_PX // 2
    low, high, stretch = {
        "spindle": (3.2, 4.6, 2.9),
        "round": (4.2, 5.4, 1.1),
        "epithelial": (4.6, 6.0, 1.55),
        "tumour": (7.0, 12.5, 1.5),
        "debris": (0.9, 2.1, 1.3),
    }[kind]
    for k in range(_STAMPS):
        radius, ratio, turn = rng.uniform(low, high), rng.uniform(1, stretch), rng.uniform(0, np.pi)
        if kind == "spindle":
            turn = np.pi * k / _STAMPS  # turned along the fibres by the choice of stamp
        a, b = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
        angle = np.arctan2(b, a)
        wobble = np.ones_like(u)
        rough = 0.22 if kind == "tumour" else 0.06
        for n in (2, 3, 5):
            wobble += rough * rng.uniform(0, 1) / n * 2 * np.cos(n * angle + rng.uniform(0, 6.3))
        depth = 1 - np.hypot(a / np.sqrt(ratio), b * np.sqrt(ratio)) / (radius * wobble)
        body = np.clip(depth * radius / 1.2 + 0.5, 0, 1)
        coarse = 1.1 if kind == "tumour" else 0.8
        chromatin = ndimage.gaussian_filter(rng.standard_normal(u.shape), coarse)
        contrast = 0.45 if kind == "tumour" else 0.16
        inside = 0.80 + contrast * chromatin / chromatin.std() * 0.5
        rim = np.exp(-(((depth * radius - 0.8) / 1.1) ** 2))  # chromatin lines the envelope
        inside += (0.40 if kind == "tumour" else 0.12) * rim
        if kind == "tumour":
            inside -= 0.25 * (depth > 0.25)
            for _ in range(int(rng.integers(1, 4))):  # prominent nucleoli
                py, px = rng.uniform(-0.4, 0.4, 2) * radius
                inside += 0.9 * np.exp(-((v - py) ** 2 + (u - px) ** 2) / 2.4)
        out[k] = np.clip(body * np.clip(inside, 0.1, 1.6), 0, 1.6)
    return out


class _Canvas:
    """The stain amounts of one block and its margin."""

    def __init__(self, plan: SlidePlan, y0: int, x0: int, h: int, w: int) -> None:
        self.plan = plan
        self.y0, self.x0 = y0 - _MARGIN, x0 - _MARGIN
        self.shape = (h + 2 * _MARGIN, w + 2 * _MARGIN)
        self.y = np.arange(self.shape[0], dtype=np.float64) + self.y0 + 0.5
        self.x = np.arange(self.shape[1], dtype=np.float64) + self.x0 + 0.5
        self.h = np.zeros(self.shape, np.float32)
        self.e = np.zeros(self.shape, np.float32)

    def noise(self, scale: float, name: str) -> NDArray[np.float32]:
        return self.plan.noise(self.y, self.x, scale, name)

    def lattice(self, cell: int, reach: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the lattice cells whose content can reach the block."""
        rows = np.arange((self.y0 - reach) // cell, (self.y0 + self.shape[0] + reach) // cell + 1)
        columns = np.arange((self.x0 - reach) // cell, (self.x0 + self.shape[1] + reach) // cell + 1)
        iy, ix = np.meshgrid(rows, columns, indexing="ij")
        return iy.ravel(), ix.ravel()

    def points(self, cell: int, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return one jittered point per lattice cell: rows, columns (in the canvas) and a random number."""
        iy, ix = self.lattice(cell, _STAMP_PX)
        salt = self.plan.salt(name)
        y = (iy + uniform(iy, ix, salt)) * cell - self.y0
        x = (ix + uniform(iy, ix, salt + 1)) * cell - self.x0
        return y, x, uniform(iy, ix, salt + 2)

    def stamp(self, kind: str, y: NDArray[np.float64], x: NDArray[np.float64], pick: NDArray[np.int64], amount: float) -> None:
        """Draw nuclei on the canvas; overlapping ones do not add up."""
        bank, half = _stamps(kind), _STAMP_PX // 2
        h, w = self.shape
        top, left = np.rint(y).astype(int) - half, np.rint(x).astype(int) - half
        seen = (top > -_STAMP_PX) & (left > -_STAMP_PX) & (top < h) & (left < w)
        for t, c, k in zip(top[seen].tolist(), left[seen].tolist(), pick[seen].tolist(), strict=True):
            a0, b0, a1, b1 = max(t, 0), max(c, 0), min(t + _STAMP_PX, h), min(c + _STAMP_PX, w)
            target = self.h[a0:a1, b0:b1]
            np.maximum(target, amount * bank[k, a0 - t : a1 - t, b0 - c : b1 - c], out=target)

    def at(self, field: NDArray[T], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[T]:
        """Return a field's values at points; outside the canvas, the value of the nearest pixel."""
        rows = np.clip(y.astype(int), 0, self.shape[0] - 1)
        columns = np.clip(x.astype(int), 0, self.shape[1] - 1)
        values: NDArray[T] = field[rows, columns]
        return values

    def cells(self, size: int, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return distances to the nearest and to the second nearest jittered point (Worley 1996)."""
        from scipy.spatial import cKDTree

        y, x, _ = self.points(size, name)
        grid = np.stack(np.meshgrid(np.arange(0, self.shape[0], 2), np.arange(0, self.shape[1], 2), indexing="ij"), -1)
        near = cKDTree(np.stack([y, x], 1)).query(grid.reshape(-1, 2), k=2)[0].astype(np.float32)
        near = near.reshape(*grid.shape[:2], 2).repeat(2, 0).repeat(2, 1)[: self.shape[0], : self.shape[1]]
        return near[..., 0], near[..., 1]


def draw_block(plan: SlidePlan, y0: int, x0: int, h: int, w: int) -> NDArray[np.uint8]:
    """Return the pixels (h, w, 3) uint8 of a box in level-0 pixels; adjacent blocks fit together without seams."""
    canvas = _Canvas(plan, y0, x0, h, w)
    inside = plan.tissue(canvas.y, canvas.x)
    if inside.max() > 0:
        _draw_tissue(canvas, inside)
    density = _HAEMATOXYLIN * canvas.h[..., None] + _EOSIN * canvas.e[..., None]
    density += _INK * _pen(canvas)[..., None]
    density = ndimage.gaussian_filter(density, (0.7, 0.7, 0))  # the microscope's blur
    crop = density[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    light = _GLASS * np.exp(-np.float32(np.log(10)) * crop)
    iy, ix = np.arange(y0, y0 + h)[:, None], np.arange(x0, x0 + w)[None, :]
    light += 5 * (uniform(iy, ix, plan.salt("grain"))[..., None].astype(np.float32) - 0.5)
    pixels: NDArray[np.uint8] = np.clip(light + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _draw_tissue(canvas: _Canvas, inside: NDArray[np.float32]) -> None:
    plan = canvas.plan
    fat = plan.fat(canvas.y, canvas.x)
    warp = canvas.noise(120, "warp") + 0.5 * canvas.noise(40, "warp2")
    bend = canvas.noise(900, "bend")
    run = canvas.x[None, :] * 0.55 + canvas.y[:, None] * 0.83
    fibres = np.sin((run / 21 + 9 * warp + 24 * bend).astype(np.float32) * 2)
    fine = canvas.noise(5, "fine") - 0.5
    # Stroma: wavy collagen with gaps.
    canvas.e += 0.26 + 0.075 * fibres + 0.10 * fine + 0.05 * (canvas.noise(60, "patch") - 0.5)
    canvas.h += 0.035
    glands = _draw_glands(canvas)
    is_fat = (fat > 0) & ~glands
    if is_fat.any():
        first, second = canvas.cells(_FAT_CELL, "fat cells")
        membrane = np.exp(-(((second - first) / 3.2) ** 2))
        canvas.e = np.where(is_fat, 0.015 + 0.20 * membrane, canvas.e)
        canvas.h = np.where(is_fat, 0.02 * membrane, canvas.h)
    # Stromal nuclei along the fibres, a few lymphocytes, and crowded patches, which are normal too.
    y, x, chance = canvas.points(_NUCLEUS_CELL, "nuclei")
    crowd = canvas.at(canvas.noise(260, "crowd"), y, x)
    free = ~canvas.at(glands, y, x)
    fatty = canvas.at(is_fat, y, x)
    share = np.where(fatty, 0.02, 0.05 + 0.22 * np.clip(crowd - 0.35, 0, 1) / 0.65)
    chosen = free & (chance < share)
    lymphocyte = chance < share * (0.15 + 0.6 * (crowd > 0.72))
    along = (0.32 + 0.35 * canvas.at(bend, y, x) + 0.08 * (np.modf(chance * 7919)[0] - 0.5)) % 1.0
    spindle = chosen & ~lymphocyte
    canvas.stamp("spindle", y[spindle], x[spindle], (along[spindle] * _STAMPS).astype(np.int64) % _STAMPS, 0.62)
    small = chosen & lymphocyte
    canvas.stamp("round", y[small], x[small], _pick(chance[small]), 0.80)
    _draw_anomalies(canvas)
    tint = 1 + 0.10 * (canvas.noise(plan.size_px / 5, "tint") - 0.5)
    alpha = np.clip(inside * plan.size_px / 2 / 4 + 0.5, 0, 1)
    tears = np.clip((canvas.noise(500, "tears") - 0.955) * 60, 0, 1)
    alpha = alpha * (1 - tears)
    canvas.h *= alpha * tint
    canvas.e *= alpha * (2 - tint)


def _draw_glands(canvas: _Canvas) -> NDArray[np.bool_]:
    """Draw glands: a pale lumen, and a ring of epithelium with basal nuclei. Return a mask of the glands."""
    plan = canvas.plan
    taken = np.zeros(canvas.shape, bool)
    iy, ix = canvas.lattice(_GLAND_CELL, _GLAND_CELL)
    salt = plan.salt("gland")
    draws = [uniform(iy, ix, salt + k) for k in range(7)]
    for k in range(len(iy)):
        u = [float(d[k]) for d in draws]
        cy = (iy[k] + 0.5 + 0.30 * (u[0] - 0.5)) * _GLAND_CELL
        cx = (ix[k] + 0.5 + 0.30 * (u[1] - 0.5)) * _GLAND_CELL
        here_y, here_x = np.array([cy]), np.array([cx])
        if plan.glandular(here_y, here_x)[0, 0] < 0.25 * (u[2] - 0.5) or plan.fat(here_y, here_x)[0, 0] > -0.05:
            continue
        if plan.tissue(here_y, here_x)[0, 0] < 0.02:
            continue
        radius = 70 + 55 * u[3]
        reach = int(radius * 1.5)
        top, left = int(cy) - reach - canvas.y0, int(cx) - reach - canvas.x0
        a0, b0 = max(top, 0), max(left, 0)
        a1, b1 = min(top + 2 * reach, canvas.shape[0]), min(left + 2 * reach, canvas.shape[1])
        if a0 >= a1 or b0 >= b1:
            continue
        v = canvas.y[a0:a1, None] - cy
        w = canvas.x[None, b0:b1] - cx
        ratio, turn = 1 + 0.45 * u[4], np.pi * u[5]
        a, b = np.cos(turn) * w + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * w
        angle = np.arctan2(b, a)
        fold = 1 + 0.07 * np.cos(3 * angle + 6.3 * u[6]) + 0.05 * np.cos(5 * angle + 6.3 * u[0])
        depth = (radius * fold - np.hypot(a / np.sqrt(ratio), b * np.sqrt(ratio))).astype(np.float32)
        body = np.clip(depth / 2 + 0.5, 0, 1)
        lumen = np.clip((depth - (34 + 8 * u[2])) / 3, 0, 1)
        e, h = canvas.e[a0:a1, b0:b1], canvas.h[a0:a1, b0:b1]
        tone = 0.22 + 0.05 * canvas.noise(9, "cytoplasm")[a0:a1, b0:b1]
        e += body * (tone - e)
        h += body * (0.07 - h)
        e *= 1 - 0.93 * lumen
        h *= 1 - 0.90 * lumen
        e += 0.16 * np.exp(-((depth / 2.5) ** 2))  # basement membrane
        taken[a0:a1, b0:b1] |= body > 0.5
        count = int(2 * np.pi * radius / 9.5)
        around = np.linspace(0, 2 * np.pi, count, endpoint=False)
        number = np.arange(count, dtype=np.int64)
        shake = uniform(number, np.full(count, iy[k] * 7919 + ix[k]), salt + 9)
        for row, (basal, keep) in enumerate(((10.0, 1.0), (19.0, 0.35))):
            wobble = np.modf(shake * (31 + 17 * row))[0]
            t = around + (wobble - 0.5) * 0.5 * 9.5 / radius
            fold_t = 1 + 0.07 * np.cos(3 * t + 6.3 * u[6]) + 0.05 * np.cos(5 * t + 6.3 * u[0])
            r = radius * fold_t - basal - 3 * wobble
            p, q = r * np.cos(t) * np.sqrt(ratio), r * np.sin(t) / np.sqrt(ratio)
            y, x = cy + np.sin(turn) * p + np.cos(turn) * q - canvas.y0, cx + np.cos(turn) * p - np.sin(turn) * q - canvas.x0
            chosen = np.modf(shake * 53)[0] < keep
            canvas.stamp("epithelial", y[chosen], x[chosen], _pick(np.modf(shake * 97)[0][chosen]), 0.70)
    return taken


def _draw_anomalies(canvas: _Canvas) -> None:
    """Replace the tissue inside the outlines of anomalies: the mean colour stays near the normal range, the structure changes."""
    frame = shapely.box(canvas.y0, canvas.x0, canvas.y0 + canvas.shape[0], canvas.x0 + canvas.shape[1])
    for region in canvas.plan.planted:
        if not region.geometry.intersects(frame):
            continue
        outline = np.asarray(region.geometry.exterior.coords) - (canvas.y0 + 0.5, canvas.x0 + 0.5)
        mask = polygon2mask(canvas.shape, outline)
        if not mask.any():
            continue
        before_h, before_e = canvas.h.copy(), canvas.e.copy()
        _FORMS[region.name](canvas)
        canvas.h = np.where(mask, canvas.h, before_h)
        canvas.e = np.where(mask, canvas.e, before_e)


def _draw_pleomorphic(canvas: _Canvas) -> None:
    """Sheets of large, irregular nuclei with coarse chromatin and nucleoli; no glands, no fibres."""
    canvas.e[:] = 0.25 + 0.10 * (canvas.noise(14, "cytoplasm a") - 0.5) + 0.08 * (canvas.noise(5, "cytoplasm b") - 0.5)
    canvas.h[:] = 0.045
    y, x, chance = canvas.points(31, "tumour")
    chosen = chance < 0.52
    canvas.stamp("tumour", y[chosen], x[chosen], _pick(chance[chosen]), 0.62)


def _draw_necrosis(canvas: _Canvas) -> None:
    """Granular debris and nuclear dust; ghosts instead of nuclei."""
    grain = canvas.noise(3, "grain a") + 0.8 * canvas.noise(6, "grain b") - 0.9
    clump = canvas.noise(30, "clump") - 0.5
    canvas.e[:] = np.clip(0.26 + 0.30 * grain + 0.16 * clump, 0.02, None)
    canvas.h[:] = 0.03 + 0.04 * (clump > 0.1)
    y, x, chance = canvas.points(8, "dust")
    chosen = chance < 0.50
    canvas.stamp("debris", y[chosen], x[chosen], _pick(chance[chosen]), 0.75)


def _draw_foam(canvas: _Canvas) -> None:
    """Foamy macrophages: bubbles in thin walls, small nuclei pushed aside."""
    first, second = canvas.cells(_FOAM_CELL, "foam")
    wall = np.exp(-(((second - first) / 3.4) ** 2))
    canvas.e[:] = 0.15 + 0.24 * wall + 0.03 * (canvas.noise(6, "froth") - 0.5)
    canvas.h[:] = 0.02 + 0.05 * wall
    y, x, chance = canvas.points(_FOAM_CELL, "foam nuclei")
    chosen = chance < 0.30
    canvas.stamp("round", y[chosen], x[chosen], _pick(chance[chosen]), 0.72)


_FORMS = dict(zip(ANOMALY_NAMES, (_draw_pleomorphic, _draw_necrosis, _draw_foam), strict=True))


def _pick(chance: NDArray[np.float64]) -> NDArray[np.int64]:
    return (np.modf(chance * 6151)[0] * _STAMPS).astype(np.int64)


def _pen(canvas: _Canvas) -> NDArray[np.float32]:
    """Return the ink of a blue pen stroke beside the tissue."""
    size = canvas.plan.size_px
    width = size / 260
    v, u = canvas.y[:, None] / size, canvas.x[None, :] / size
    stroke = np.abs(np.hypot(u - 0.5, v - 0.52) - 0.47 - 0.012 * np.sin(9 * np.arctan2(v - 0.5, u - 0.5))) * size
    part = (u > 0.62) & (v < 0.35)
    ink: NDArray[np.float32] = (part * np.clip((width - stroke) / 3 + 0.5, 0, 1) * 0.55).astype(np.float32)
    return ink
