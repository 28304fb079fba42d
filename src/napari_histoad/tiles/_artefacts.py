"""Finding artefacts of preparation and scanning: each square of tissue is judged by its features and a small trained model.

The model is a network of one hidden layer, trained by ``tools/train_artefacts.py`` on synthetic artefacts drawn into real tissue.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.errors import SettingsError, SlideError
from napari_histoad.system.host import usable_cores
from napari_histoad.tiles._artefact_features import REACH, SQUARE_PX, square_features
from napari_histoad.tiles._tissue import box_sums, integral_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histoad.slide import Slide
    from napari_histoad.tiles._tissue import TissueMask

ARTEFACT_KINDS = ("out of focus", "fold", "bubble", "pen", "dust", "cover-slip edge")
"""The kinds of artefacts, in the order of the model's results."""

ARTEFACTS = ("mark", "leave-out", "ignore")
"""What mapping can do about artefacts: mark their tiles, not score them, or not look for artefacts."""

_MPP = 2.0  # coarse enough that a slide takes seconds, fine enough to see that nuclei are blurred
_WINDOW = 16  # squares on each side that are read together
_LEAST_TISSUE = 0.1
_CERTAIN = 0.5  # at which about 1% of clean squares are taken for artefacts, see tools/train_artefacts.py
_MOST_THREADS = 8
_CLIP = 4.0


@dataclass(frozen=True)
class ArtefactMask:
    """Where a slide has artefacts, in squares of 64 µm (32 px on slides coarser than 2 µm per pixel).

    Attributes
    ----------
    probabilities : (h, w, 6) float32
        Probability of each of `ARTEFACT_KINDS` in a square; 0 where there is little tissue, NaN where there is none or it could
        not be read.
    scale_yx : tuple[float, float]
        Level-0 pixels per square, per axis.
    """

    probabilities: NDArray[np.float32]
    scale_yx: tuple[float, float]

    @property
    def kinds(self) -> NDArray[np.uint8]:
        """(h, w) uint8: 0 for no artefact, otherwise 1 + the index of the likeliest kind."""
        known = np.nan_to_num(self.probabilities)
        return np.where(known.sum(axis=-1) >= _CERTAIN, known.argmax(axis=-1) + 1, 0).astype(np.uint8)

    @cached_property
    def _integrals(self) -> NDArray[np.float64]:
        seen = ~np.isnan(self.probabilities[..., :1])
        return integral_of(np.concatenate([seen, np.nan_to_num(self.probabilities)], axis=-1))

    def of_boxes(self, boxes: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the mean probability of each kind over the squares that level-0 boxes (N, 4) (y0, x0, y1, x1) touch.

        Returns
        -------
        (N, 6) float32 in [0, 1]
            NaN where nothing was looked at. A box is an artefact from a sum of 0.5 on.
        """
        seen, *sums = (box_sums(self._integrals[..., k], self.scale_yx, boxes) for k in range(1 + len(ARTEFACT_KINDS)))
        found = np.full((len(boxes), len(sums)), np.nan)
        np.divide(np.stack(sums, axis=1), seen[:, None], out=found, where=seen[:, None] > 1e-9)
        return found.clip(0, 1).astype(np.float32)


def kinds_of(probabilities: NDArray[np.float32]) -> list[str]:
    """Return the likeliest kind of each tile by its probabilities (N, 6); "" for no artefact."""
    likeliest = np.nan_to_num(probabilities).argmax(axis=1).tolist()
    artefact = probabilities.sum(axis=1) >= _CERTAIN
    return [ARTEFACT_KINDS[k] if there else "" for k, there in zip(likeliest, artefact, strict=True)]


def artefacts_note(kinds: list[str], *, left_out: bool) -> str:
    """Return how many tiles are artefacts, by their `kinds_of`, and what was done about it; "" if none is."""
    count = Counter(filter(None, kinds))
    if not count:
        return ""
    named = ", ".join(f"{n:,} {kind}" for kind, n in count.most_common())
    some = f"{count.total():,} of {len(kinds):,} tiles"
    done = "were left out as artefacts" if left_out else "look like artefacts and were scored like the others"
    return f"{some} {done}: {named}"


def check_artefacts(artefacts: str) -> None:
    """Raise a SettingsError if the choice of what to do about artefacts is unknown."""
    if artefacts not in ARTEFACTS:
        raise SettingsError(f"artefacts cannot be treated as {artefacts!r}", f"choose {', '.join(ARTEFACTS)}")


def find_artefacts(slide: Slide, tissue: TissueMask) -> ArtefactMask:
    """Return where the tissue of a brightfield slide is out of focus, folded, under a bubble, pen, dust or the cover slip's edge.

    Raises
    ------
    MissingMppError
        If the resolution is unknown.
    """
    side = SQUARE_PX * max(1.0, _MPP / slide.require_mpp())
    height, width = (math.ceil(n / side) for n in slide.shape)
    y, x = (corner.ravel() * side for corner in np.mgrid[:height, :width])
    share = tissue.fraction(np.stack([y, x, y + side, x + side], axis=1)).reshape(height, width)
    probabilities = np.full((height, width, len(ARTEFACT_KINDS)), np.nan, np.float32)
    corners = itertools.product(range(0, height, _WINDOW), range(0, width, _WINDOW))
    windows = [(y, x) for y, x in corners if share[y : y + _WINDOW, x : x + _WINDOW].any()]
    with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS), thread_name_prefix="artefacts") as pool:
        found = pool.map(lambda corner: _judge(slide, side, corner[0], corner[1], _WINDOW), windows)
        for (top, left), part in zip(windows, found, strict=True):
            inside = probabilities[top : top + _WINDOW, left : left + _WINDOW]
            inside[:] = part[: inside.shape[0], : inside.shape[1]]
    probabilities[(share < _LEAST_TISSUE) & ~np.isnan(probabilities[..., 0])] = 0
    probabilities[share == 0] = np.nan
    return ArtefactMask(probabilities, (side, side))


def _judge(slide: Slide, side: float, top: int, left: int, count: int) -> NDArray[np.float32]:
    """Return the probabilities of a window of squares (count, count, 6); NaN for those that cannot be read."""
    if max(top * side - slide.shape[0], left * side - slide.shape[1]) >= 0:
        return np.full((count, count, len(ARTEFACT_KINDS)), np.nan, np.float32)
    try:
        image = _read(slide, side, top - REACH, left - REACH, count + 2 * REACH)
    except SlideError:
        if count == 1:
            return np.full((1, 1, len(ARTEFACT_KINDS)), np.nan, np.float32)
        half = count // 2
        rows = ([_judge(slide, side, top + y, left + x, half) for x in (0, half)] for y in (0, half))
        return np.concatenate([np.concatenate(row, axis=1) for row in rows])
    return artefact_probabilities(square_features(image))[REACH:-REACH, REACH:-REACH]


def _read(slide: Slide, side: float, top: int, left: int, count: int) -> NDArray[np.uint8]:
    """Return a window of squares, mirrored beyond the slide's border: white there would be an edge."""
    spans, pads = [], []
    for first, length in ((top, slide.shape[0]), (left, slide.shape[1])):
        begin, end = max(0.0, first * side), min(float(length), (first + count) * side)
        px = min(count * SQUARE_PX, max(1, round((end - begin) / side * SQUARE_PX)))
        before = SQUARE_PX * max(0, -first)
        spans.append((begin, end - begin, px))
        pads.append((before, max(0, count * SQUARE_PX - before - px)))
    (y, h, h_px), (x, w, w_px) = spans
    pixels = slide.read_scaled(y, x, h, w, (h_px, w_px))
    return np.pad(pixels, (*pads, (0, 0)), mode="symmetric")[: count * SQUARE_PX, : count * SQUARE_PX]


def artefact_model_path() -> Path:
    """Return the path of the model's numbers."""
    return Path(__file__).parents[1] / "models" / "artefacts.npz"


@cache
def _model() -> dict[str, NDArray[np.float32]]:
    with np.load(artefact_model_path(), allow_pickle=False) as stored:
        return dict(stored)


def artefact_probabilities(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of each kind, (…, 6) float32, by the features (…, F) of squares."""
    model = _model()
    x = np.clip((features - model["mean"]) / model["spread"], -_CLIP, _CLIP)
    logits = np.maximum(x @ model["weights_0"] + model["biases_0"], 0) @ model["weights_1"] + model["biases_1"]
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: NDArray[np.float32] = odds[..., 1:] / odds.sum(axis=-1, keepdims=True)
    return found.astype(np.float32, copy=False)
