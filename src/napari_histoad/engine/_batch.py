"""Scores of one batch of tiles, or of a stream of batches, of which as many are under way as keep the device busy."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from napari_histoad.errors import DeviceError, SettingsError, TrainingError
from napari_histoad.networks.threads import map_in_threads

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice

__all__ = ["Collected", "score_batch", "score_stream"]

T = TypeVar("T")


@dataclass(frozen=True)
class Launched:
    """A batch whose scores the device may still be computing."""

    detector: Detector
    images: NDArray[np.uint8]
    choice: DeviceChoice
    cells: int | None
    scores: Tensor | None
    """None: the batch did not fit into memory."""
    error_maps: Tensor | None
    probabilities: Tensor | None = None


class Collected(NamedTuple):
    """What was said of B tiles.

    Attributes
    ----------
    scores : (B,) float32
    error_maps : (B, cells, cells) float32 or None
    probabilities : (B, K) float32 or None
    """

    scores: NDArray[np.float32]
    error_maps: NDArray[np.float32] | None
    probabilities: NDArray[np.float32] | None

    @staticmethod
    def join(parts: Sequence[Collected]) -> Collected:
        """Return several batches as one."""
        maps = [part.error_maps for part in parts if part.error_maps is not None]
        classes = [part.probabilities for part in parts if part.probabilities is not None]
        return Collected(
            np.concatenate([part.scores for part in parts]),
            np.concatenate(maps) if maps else None,
            np.concatenate(classes) if classes else None,
        )


def launch(detector: Detector, images: NDArray[np.uint8], choice: DeviceChoice, cells: int | None = None) -> Launched:
    """Hand one batch to the device and return at once, if the device works by itself.

    Parameters
    ----------
    detector : Detector
        Already on the device.
    images : (B, H, W, 3) uint8
        To be kept as they are until `collect`.
    choice : DeviceChoice
    cells : int, optional
        Pool error maps to this many cells down and across; None drops them.

    Raises
    ------
    SettingsError
        If the tiles are of another size than the detector's.
    """
    side = detector.settings.tile_px
    if images.shape[1:] != (side, side, 3):
        shape = "x".join(str(n) for n in images.shape[1:])
        msg = f"the detector was trained on tiles of {side}x{side} px, these are {shape}"
        raise SettingsError(msg, f"cut or resize the tiles to {side} px, or train a detector for their size")
    try:
        with torch.inference_mode(), choice.autocast(detector):
            result = detector.score(choice.upload(images))
            maps = None
            if cells is not None and result.error_map is not None:
                maps = F.adaptive_avg_pool2d(result.error_map.float()[:, None], cells)[:, 0]
            said = None if result.probabilities is None else result.probabilities.float()
            return Launched(detector, images, choice, cells, result.score.float(), maps, said)
    except torch.OutOfMemoryError:
        return Launched(detector, images, choice, cells, None, None)


def collect(launched: Launched) -> Collected:
    """Wait for a batch and return what was said of it; one that did not fit into memory is scored in halves.

    Raises
    ------
    DeviceError
        If not even one tile fits into memory.
    TrainingError
        If a score is not finite: NaN in a map would look like a tile that could not be read.
    """
    if launched.scores is not None:
        maps = None if launched.error_maps is None else launched.error_maps.cpu().numpy()
        said = None if launched.probabilities is None else launched.probabilities.cpu().numpy()
        scores = launched.scores.cpu().numpy()
        finite = np.isfinite(scores)
        if not finite.all():
            msg = f"the {launched.detector.name} detector gives no finite score for {(~finite).sum()} of {len(scores)} tiles"
            raise TrainingError(msg, "its training has diverged: train it again, with a lower learning rate or other settings")
        return Collected(scores, maps, said)
    images, choice = launched.images, launched.choice
    if len(images) == 1:
        raise DeviceError("a single tile does not fit into the device's memory", "use --device cpu")
    if choice.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(images) // 2
    return Collected.join(
        [score_batch(launched.detector, part, choice, launched.cells) for part in (images[:half], images[half:])]
    )


def score_batch(detector: Detector, images: NDArray[np.uint8], choice: DeviceChoice, cells: int | None = None) -> Collected:
    """Score one batch on the device and wait for it, see `launch` and `collect`."""
    return collect(launch(detector, images, choice, cells))


def score_stream(
    detector: Detector, choice: DeviceChoice, batches: Iterable[tuple[T, NDArray[np.uint8]]], cells: int | None = None
) -> Generator[tuple[T, Collected]]:
    """Score batches as they come; a CPU computes one per core, a GPU is handed the next before the last one is fetched.

    Parameters
    ----------
    detector : Detector
        Already on the device.
    choice : DeviceChoice
    batches : iterable of (anything, (B, H, W, 3) uint8)
        Images must stay as they are until ``choice.ahead`` more batches have been asked for.
    cells : int, optional
        Pool error maps to this many cells down and across; None drops them.

    Yields
    ------
    (anything, Collected)
        In the order of the batches.

    Raises
    ------
    SettingsError
        If the tiles are of another size than the detector's.
    DeviceError
        If not even one tile fits into memory.
    """
    if choice.device.type == "cpu":

        def score(pair: tuple[T, NDArray[np.uint8]]) -> tuple[T, Collected]:
            return pair[0], score_batch(detector, pair[1], choice, cells)

        yield from map_in_threads(score, batches, choice.device, choice.lanes)
        return
    under_way: deque[tuple[T, Launched]] = deque()
    for name, images in batches:
        under_way.append((name, launch(detector, images, choice, cells)))
        if len(under_way) > choice.ahead:
            name, launched = under_way.popleft()
            yield name, collect(launched)
    for name, launched in under_way:
        yield name, collect(launched)
