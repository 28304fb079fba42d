"""Train the model of artefacts that is part of the package, on synthetic artefacts drawn into real tissue, and print how good it is.

    python tools/train_artefacts.py [--data FOLDER] [--pictures FOLDER]

The data folder (default: the environment variable HISTOAD_DATA) holds oral mucosa, Camelyon16 and CMU-1, all CC0, on which the
model is trained, and other sets, which are only looked at: how often their tissue is taken for an artefact. Only the trained
numbers become part of the package.

Tested on held-out images (groups of the oral set, other parts of the slides, another sample slide) with held-out artefacts: every
parameter of an artefact, such as the width of a blur or the colour of a pen, is drawn from alternate tenths of its range.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.signal import oaconvolve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from napari_histoad.samples import write_sample
from napari_histoad.slide import open_slide
from napari_histoad.tiles import ARTEFACT_KINDS, list_tile_files
from napari_histoad.tiles._artefact_features import SQUARE_PX, square_features
from napari_histoad.tiles._artefacts import artefact_model_path, artefact_probabilities

ON_GLASS = [1 + ARTEFACT_KINDS.index(kind) for kind in ("pen", "dust", "cover-slip edge")]
"""What is learnt on glass as well. Clean glass is not: pale tissue out of focus would be taken for it."""

PIECE_PX = 256
FALSE_ALARMS = 0.003
"""Share of clean squares trained on whose probability of an artefact reaches one half; about three times as many of others do."""
INKS = np.array([(1.3, 1.2, 1.1), (1.4, 1.0, 0.25), (1.2, 0.5, 0.35), (1.3, 0.4, 0.9), (0.2, 0.9, 1.1), (0.9, 1.3, 0.4)])
"""Optical density of inks: black, blue, light blue, green, red, violet; pens between neighbours are drawn."""


class Parameters:
    """Draws parameters from alternate tenths of their ranges: even ones for training, odd ones for tests."""

    def __init__(self, seed: int, *, held_out: bool) -> None:
        self.rng, self._odd = np.random.default_rng(seed), held_out

    def __call__(self, low: float, high: float) -> float:
        """Return a number between ``low`` and ``high``."""
        tenth = 2 * self.rng.integers(5) + self._odd
        return low + (high - low) * (tenth + self.rng.random()) / 10

    def noise(self, shape: tuple[int, int], smooth: float) -> np.ndarray:
        """Return smooth noise in [0, 1]."""
        values = ndimage.gaussian_filter(self.rng.random(shape), smooth, mode="wrap")
        return (values - values.min()) / (np.ptp(values) + 1e-9)


@dataclass
class Drawn:
    """Optical density (H, W, 3) with an artefact, its mask, and how much of a square it must cover to be called by it."""

    density: np.ndarray
    mask: np.ndarray
    cover: float = 0.3
    unsure: np.ndarray | None = None


def blurred(density: np.ndarray, sigma: float, lens: float = 0.5) -> np.ndarray:
    """Return a picture out of focus: a disc, as of a lens, smoothed by a Gaussian."""
    light = 10.0**-density
    radius = sigma * 2 * lens
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1)
    for c in range(3):
        padded = np.pad(light[..., c], reach, mode="edge")
        light[..., c] = ndimage.gaussian_filter(oaconvolve(padded, disc / disc.sum(), "valid"), sigma * (1 - lens / 2))
    return -np.log10(np.maximum(light, 1e-3))


def curve_distance(shape: tuple[int, int], draw: Parameters) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's signed distance from a bent line across the picture, and its position along the line."""
    h, w = shape
    angle, bend, period = draw(0, np.pi), draw(0, 18), draw(60, 240)
    y, x = np.mgrid[:h, :w] - np.array([h * draw(0.2, 0.8), w * draw(0.2, 0.8)])[:, None, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return across - bend * np.sin(2 * np.pi * along / period + draw(0, 6)), along


def out_of_focus(density: np.ndarray, draw: Parameters) -> Drawn:
    soft = blurred(density, draw(1.3, 6), draw(0, 1))
    if draw.rng.random() < 0.5:
        return Drawn(soft, np.ones(density.shape[:2], bool))
    amount = np.clip((draw.noise(density.shape[:2], 40) - draw(0.3, 0.6)) * 12 + 0.5, 0, 1)
    mixed = density + (soft - density) * amount[..., None]
    return Drawn(mixed, amount > 0.8, 0.6, (amount > 0.05) & (amount <= 0.8))


def fold(density: np.ndarray, draw: Parameters) -> Drawn:
    across, _ = curve_distance(density.shape[:2], draw)
    half = draw(4, 22) * (0.6 + 0.8 * draw.noise(density.shape[:2], 30))
    inside = np.clip((half - np.abs(across)) / draw(0.8, 3) + 0.5, 0, 1)[..., None]
    shift = int(draw(10, 60))
    second = np.roll(density[::-1] if draw.rng.random() < 0.5 else density, (shift, -shift), (0, 1))
    there = ndimage.gaussian_filter((density.mean(axis=-1) > 0.1).astype(float), 6)[..., None]  # no folds of glass
    second = np.maximum(second, np.percentile(density, draw(30, 60), axis=(0, 1)) * there)
    layers = blurred(density, draw(0.4, 1.5)) + second * draw(0.5, 1.2)
    rim = np.exp(-((np.abs(across) - half) ** 2) / (2 * draw(0.8, 2) ** 2))[..., None] * draw(0, 0.3) * there
    return Drawn(density * (1 - inside) + layers * inside + rim, inside[..., 0] > 0.5, 0.25)


def bubble(density: np.ndarray, draw: Parameters) -> Drawn:
    h, w = density.shape[:2]
    y, x = np.mgrid[:h, :w]
    radius, flat = draw(25, 140), draw(0.7, 1)
    from_centre = np.hypot((y - h * draw(0, 1)) / flat, x - w * draw(0, 1)) + 6 * draw.noise((h, w), 25)
    inside, thick = from_centre < radius, draw(1.2, 5)
    rim = np.exp(-((from_centre - radius) ** 2) / (2 * thick**2)) * draw(0.3, 1.2)
    halo = np.exp(-((from_centre - radius + 3 * thick) ** 2) / (2 * thick**2)) * draw(0, 0.35)
    seen = blurred(density, draw(0.8, 3.5)) * draw(0.4, 0.9) + draw(0.0, 0.12)
    changed = np.where(inside[..., None], seen, density)
    return Drawn(np.maximum(changed + (rim - halo)[..., None], 0), (from_centre < radius + 2 * thick), 0.3)


def pen(density: np.ndarray, draw: Parameters) -> Drawn:
    across, _ = curve_distance(density.shape[:2], draw)
    hue = draw(0, len(INKS) - 1)
    ink = INKS[int(hue)] * (1 - hue % 1) + INKS[min(int(hue) + 1, len(INKS) - 1)] * (hue % 1)
    inside = np.clip((draw(8, 60) - np.abs(across) + 4 * draw.noise(across.shape, 6)) / draw(1, 5) + 0.5, 0, 1)
    streaks = draw(0.35, 1.1) * (0.7 + 0.3 * draw.noise(across.shape, draw(2, 10)))
    under = np.where(inside[..., None] > 0.5, blurred(density, draw(0.5, 3)), density)
    return Drawn(under + (inside * streaks)[..., None] * ink, inside > 0.5, 0.25)


def dust(density: np.ndarray, draw: Parameters) -> Drawn:
    h, w = density.shape[:2]
    y, x = np.mgrid[:h, :w]
    spots = np.zeros((h, w))
    for _ in range(1 + draw.rng.integers(5)):
        radius = draw(3, 14)
        cy, cx = draw.rng.random(2) * (h, w)
        edge = radius * (0.6 + 0.8 * draw.noise((h, w), radius / 2))
        spots = np.maximum(spots, np.clip(edge - np.hypot((y - cy) * draw(0.6, 1.4), x - cx) + 0.5, 0, 1))
    if draw.rng.random() < 0.5:
        across, along = curve_distance((h, w), draw)
        fibre = np.clip(draw(0.8, 3) - np.abs(across) + 0.5, 0, 1) * (np.abs(along) < draw(20, 110))
        spots = np.maximum(spots, fibre)
    spots = ndimage.gaussian_filter(spots, draw(0.3, 2.5))
    tint = 1 + 0.15 * (draw.rng.random(3) - 0.5)
    return Drawn(density + spots[..., None] * draw(0.5, 1.8) * tint, spots > 0.3, 0.05, (spots > 0.05) & (spots <= 0.3))


def cover_slip_edge(density: np.ndarray, draw: Parameters) -> Drawn:
    h, w = density.shape[:2]
    angle = draw(-0.1, 0.1) + np.pi / 2 * draw.rng.integers(2)
    y, x = np.mgrid[:h, :w]
    across = (y - h * draw(0.15, 0.85)) * np.cos(angle) - (x - w * draw(0.15, 0.85)) * np.sin(angle)
    across = across + draw(0, 2) * draw.noise((h, w), 8)
    width = draw(0.8, 4)
    line = np.exp(-(across**2) / (2 * width**2)) * draw(0.3, 1.2)
    fringe = np.exp(-((across - 3 * width) ** 2) / (2 * width**2)) * draw(-0.2, 0.3)
    beyond = (across > 0)[..., None] * (draw(0.02, 0.15) + 0.05 * draw.noise((h, w), 2))[..., None]
    soft = np.where(across[..., None] > 0, blurred(density, draw(0.5, 3)), density)
    near = np.abs(across) < 2.5 * width + 1
    return Drawn(np.maximum(soft + beyond + (line + fringe)[..., None], 0), near, 0.05, (across > 0) & ~near)


DRAW = {f.__name__.replace("_", " "): f for f in (out_of_focus, fold, bubble, pen, dust)} | {"cover-slip edge": cover_slip_edge}


def finished(density: np.ndarray, draw: Parameters) -> np.ndarray:
    """Return the picture (H, W, 3) uint8 of a density as a camera and JPEG give it."""
    light = 255 * 10.0**-density + draw.rng.normal(0, 2.5 * draw.rng.random(), density.shape)
    picture = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    if draw.rng.random() < 0.7:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=int(draw.rng.integers(65, 96)))
        picture = Image.open(buffer)
    return np.asarray(picture)


def varied(image: np.ndarray, draw: Parameters) -> np.ndarray:
    """Return the optical density of a picture, turned and in a slightly different stain and light."""
    image = np.rot90(image, draw.rng.integers(4))
    if draw.rng.random() < 0.5:
        image = image[:, ::-1]
    density = -np.log10((image.astype(np.float64) + 1) / 256)
    return density * draw.rng.uniform(0.75, 1.3, 3) + draw.rng.uniform(0, 0.06)


def covered(mask: np.ndarray) -> np.ndarray:
    h, w = (n // SQUARE_PX for n in mask.shape)
    return mask[: h * SQUARE_PX, : w * SQUARE_PX].reshape(h, SQUARE_PX, w, SQUARE_PX).mean(axis=(1, 3))


def on_tissue(density: np.ndarray) -> np.ndarray:
    return covered(density.mean(axis=-1) > 0.12) >= 0.1


def examples(images: list[np.ndarray], seed: int, *, held_out: bool, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, F) and kinds (N,) of squares with tissue: 0 clean, 1 … the number of the artefact."""
    draw = Parameters(seed, held_out=held_out)
    features, kinds = [], []
    for image in images:
        for turn in range(times):
            density = varied(image, draw)
            tissue = on_tissue(density)
            kind = (turn % (len(ARTEFACT_KINDS) + 1)) if times > 1 else draw.rng.integers(len(ARTEFACT_KINDS) + 1)
            label = np.zeros(tissue.shape, int)
            if kind:
                drawn = DRAW[ARTEFACT_KINDS[kind - 1]](density, draw)
                share = covered(drawn.mask)
                unsure = share if drawn.unsure is None else share + covered(drawn.unsure)
                label = np.where(share >= drawn.cover, kind, np.where(unsure > 0.01, -1, 0))
                density = drawn.density
            found = square_features(finished(density, draw))
            keep = (label >= 0) & (tissue | (np.isin(label, ON_GLASS) & (not held_out)))  # not tested on: glass is easy
            features.append(found[keep])
            kinds.append(label[keep])
    return np.concatenate(features), np.concatenate(kinds)


# -- tissue


def pieces(image: np.ndarray) -> list[np.ndarray]:
    """Return squares of 256 px of a picture that hold tissue."""
    found = []
    for y in range(0, image.shape[0] - PIECE_PX // 2, PIECE_PX):
        for x in range(0, image.shape[1] - PIECE_PX // 2, PIECE_PX):
            piece = image[y : y + PIECE_PX, x : x + PIECE_PX]
            if (piece.astype(float).mean(axis=-1) < 195).mean() > 0.15:
                found.append(piece)
    return found


def scaled(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))


def tile_images(folder: Path, side: int | None = None, most: int = 10_000, **wanted: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Return normal tiles of a set and their groups, every n-th if there are more than ``most``."""
    files = [
        f for f in list_tile_files(folder / "manifest.csv") if f.label == 0 and all(v in str(f.path) for v in wanted.values())
    ]
    files = files[:: max(1, len(files) // most)]
    images = [np.asarray(Image.open(f.path).convert("RGB")) for f in files]
    return [image if side is None else scaled(image, side) for image in images], np.array([str(f.group) for f in files])


def tissue(data: Path) -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
    """Return, by source, images to train on and images to test on."""
    found = {}
    for name, side in (("100x", None), ("400x", None), ("400x", 128)):
        images, groups = tile_images(data / "patches/oral_oscc", side, magnification=name)
        kept = np.random.default_rng(0).permutation(np.unique(groups))
        train = np.isin(groups, kept[: int(0.6 * len(kept))])
        found[f"oral {name} {side or 224} px"] = (
            [i for i, t in zip(images, train, strict=True) if t],
            [i for i, t in zip(images, train, strict=True) if not t],
        )
    with open_slide(data / "slides/CMU-1-Small-Region.svs") as slide:
        for mpp in (1.0, 2.0, 4.0):
            shape = tuple(int(n * slide.require_mpp() / mpp) for n in slide.shape)
            image = slide.read_scaled(0, 0, *slide.shape, shape)
            cut = int(0.62 * shape[0])
            found[f"CMU-1 at {mpp:g}"] = pieces(image[:cut]), pieces(image[cut:])
    with open_slide(data / "slides/camelyon16_tumor_001_level5.tif", 7.8) as slide:
        image = slide.read(0, 1700, 100, 2700, slide.shape[1] - 100)  # below, it is out of focus; to the left, there is a bar
        found["Camelyon16 overview"] = pieces(image[:, :1400]), pieces(image[:, 1400:])
    with tempfile.TemporaryDirectory() as scratch:
        drawn = []
        for seed in (101, 102):
            with open_slide(write_sample(Path(scratch) / f"{seed}.tif", 4096, seed=seed)) as slide:
                drawn.append(pieces(slide.read_scaled(0, 0, *slide.shape, tuple(int(n * 0.25) for n in slide.shape))))
        found["sample slide"] = drawn[0], drawn[1]
    return found


def others(data: Path) -> dict[str, list[np.ndarray]]:
    """Return normal images of sets that the model is not trained on, at about 2 µm per pixel."""
    sides = {"glas_colon": 64, "lc25000_colon": 96, "ucsb_breast": 32, "hpylori_ihc": 32, "camelyon16_dldp": 32}
    return {name: tile_images(data / "patches" / name, side, 300)[0] for name, side in sides.items()}


# -- the model


def write_model(features: np.ndarray, kinds: np.ndarray, path: Path) -> None:
    """Train on squares, shift the probability of "clean" so that few clean squares are taken for artefacts, write the numbers."""
    rows = balanced(kinds, np.random.default_rng(0))
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    x = np.clip((features - mean) / spread, -4, 4)
    fitted = MLPClassifier((32,), alpha=1.0, batch_size=512, max_iter=150, early_stopping=True, random_state=0)
    fitted.fit(x[rows], kinds[rows])
    (weights_0, weights_1), (biases_0, biases_1) = fitted.coefs_, fitted.intercepts_
    logits = np.maximum(x[kinds == 0] @ weights_0 + biases_0, 0) @ weights_1 + biases_1
    biases_1[0] += np.quantile(np.logaddexp.reduce(logits[:, 1:], axis=1) - logits[:, 0], 1 - FALSE_ALARMS)
    values = {"mean": mean, "spread": spread, "weights_0": weights_0, "biases_0": biases_0}
    values |= {"weights_1": weights_1, "biases_1": biases_1}
    np.savez(path, **{name: value.astype(np.float32) for name, value in values.items()})


def balanced(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return rows in which there are as many squares of each kind, and three times as many clean ones."""
    count = np.bincount(kinds)
    each = int(min(count[1:].max(), 12_000))
    rows = [rng.choice(np.flatnonzero(kinds == k), each * (3 if k == 0 else 1), replace=True) for k in range(len(count))]
    return np.concatenate(rows)


def aurocs(score: np.ndarray, kinds: np.ndarray) -> list[float]:
    found = [roc_auc_score(kinds[(kinds == 0) | (kinds == k)] > 0, score[(kinds == 0) | (kinds == k)]) for k in range(1, 7)]
    return [*found, roc_auc_score(kinds > 0, score)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HISTOAD_DATA"))
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the synthetic artefacts")
    options = parser.parse_args()
    if options.data is None:
        parser.error("name the data folder with --data or HISTOAD_DATA")
    data = Path(options.data)
    found = tissue(data)
    if options.pictures is not None:
        draw_pictures(found, options.pictures)
    learnt, tested = [], {}
    for number, (name, (train, test)) in enumerate(found.items()):
        learnt.append(examples(train, number, held_out=False, times=7 * max(1, round(60 / len(train)))))
        tested[name] = examples(test, 1000 + number, held_out=True, times=7 * max(1, round(30 / len(test))))
        print(name, len(train), len(test), np.bincount(learnt[-1][1]), np.bincount(tested[name][1]), flush=True)
    features, kinds = (np.concatenate(parts) for parts in zip(*learnt, strict=True))
    write_model(features, kinds, artefact_model_path())
    print(artefact_model_path(), artefact_model_path().stat().st_size, "bytes")
    print_accuracy(tested, (features, kinds))
    unknown = others(data)
    print_false_alarms(unknown)
    print("\n| held-out synthetic artefacts, on sets not trained on |", " | ".join([*ARTEFACT_KINDS, "all"]), "|")
    print_by_source({name: examples(unknown[name], 9, held_out=True, times=7) for name in ("glas_colon", "lc25000_colon")})


def row(name: str, values: list[float], form: str = ".3f") -> None:
    print("|", name, "|", " | ".join(format(value, form) for value in values), "|")


def print_accuracy(tested: dict[str, tuple[np.ndarray, np.ndarray]], learnt: tuple[np.ndarray, np.ndarray]) -> None:
    """Print AUROCs by kind and by source of tissue, beside those of a logistic regression."""
    features, kinds = (np.concatenate(parts) for parts in zip(*tested.values(), strict=True))
    found = artefact_probabilities(features)
    score = found.sum(axis=1)
    scaler = StandardScaler().fit(learnt[0])
    rows = balanced(learnt[1], np.random.default_rng(0))
    linear = LogisticRegression(max_iter=2000).fit(scaler.transform(learnt[0][rows]), learnt[1][rows])
    print("\n| held-out synthetic artefacts |", " | ".join([*ARTEFACT_KINDS, "all"]), "|")
    row("logistic regression", aurocs(1 - linear.predict_proba(scaler.transform(features))[:, 0], kinds))
    row("the model", aurocs(score, kinds))
    of = [kinds == k for k in range(1, 1 + len(ARTEFACT_KINDS))]
    row("found at 0.5", [(score[mine] >= 0.5).mean() for mine in [*of, kinds > 0]], ".0%")
    row("called by its kind", [(found[mine].argmax(axis=1) + 1 == k).mean() for k, mine in enumerate(of, start=1)], ".0%")
    print_by_source(tested)


def print_by_source(tested: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Print AUROCs by kind for each source of tissue, and the share of its clean squares that are taken for artefacts."""
    for name, (x, y) in tested.items():
        s = artefact_probabilities(x).sum(axis=1)
        row(f"{name}, false alarms {(s[y == 0] >= 0.5).mean():.1%}", aurocs(s, y))


def print_false_alarms(sets: dict[str, list[np.ndarray]]) -> None:
    """Print how many squares of normal tissue of other sets are taken for artefacts, and for which."""
    print("\n| false alarms at 0.5, not trained on | squares |", " | ".join([*ARTEFACT_KINDS, "all"]), "|")
    for name, images in sets.items():
        squares = [square_features(i)[on_tissue(-np.log10((i.astype(float) + 1) / 256))] for i in images]
        found = artefact_probabilities(np.concatenate(squares))
        kind = np.where(found.sum(axis=1) >= 0.5, found.argmax(axis=1) + 1, 0)
        row(f"{name} | {len(kind)}", [*((kind == k).mean() for k in range(1, 1 + len(ARTEFACT_KINDS))), (kind > 0).mean()], ".1%")


def draw_pictures(found: dict[str, tuple[list[np.ndarray], list[np.ndarray]]], folder: Path) -> None:
    """Save a picture with each kind of artefact (columns) in each source of tissue (rows)."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, rows = Parameters(5, held_out=False), []
    for train, _ in found.values():
        row = []
        for kind in ARTEFACT_KINDS:
            image = scaled(train[draw.rng.integers(len(train))], 224)
            row.append(finished(DRAW[kind](varied(image, draw), draw).density, draw))
        rows.append(np.concatenate(row, axis=1))
    Image.fromarray(np.concatenate(rows)).save(folder / "synthetic.png")


if __name__ == "__main__":
    main()
