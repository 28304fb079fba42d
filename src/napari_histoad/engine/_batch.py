"""Scores of one batch of tiles, or of a stream of batches with enough of them in flight to keep the device busy."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from napari_histoad.detectors import TileScores
from napari_histoad.errors import DeviceError, SettingsError, TrainingError
from napari_histoad.maps import ScoredTiles
from napari_histoad.networks.threads import map_in_threads
from napari_histoad.tiles import TileBatch

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice


@dataclass(frozen=True)
class _InFlight:
    """A batch whose scores the device may still be computing; None: the batch did not fit into its memory."""

    batch: TileBatch
    scores: TileScores | None


def batches_of(images: NDArray[np.uint8], size: int) -> Iterator[TileBatch]:
    """Yield tiles (N, H, W, 3) in memory as batches of at most ``size``."""
    for first in range(0, len(images), size):
        part = images[first : first + size]
        yield TileBatch(part, np.arange(first, first + len(part)), np.zeros(len(part), bool))


def score_stream(
    detector: Detector, choice: DeviceChoice, batches: Iterable[TileBatch], cells: int | None = None
) -> Generator[ScoredTiles]:
    """Score batches in their order, several at once on a CPU; a GPU gets the next batch before the last one is fetched.

    Images must stay unchanged until ``choice.ahead`` more batches have been requested. Error maps are pooled to (cells, cells),
    or dropped without ``cells``. Raises `SettingsError` if the tiles do not have the detector's size, `DeviceError` if a single
    tile does not fit into memory, and `TrainingError` if a score is not finite.
    """
    if choice.device.type == "cpu":

        def score(batch: TileBatch) -> ScoredTiles:
            return score_batch(detector, batch, choice, cells)

        yield from map_in_threads(score, batches, choice.device, choice.worker_threads)
        return
    in_flight: deque[_InFlight] = deque()
    for batch in batches:
        in_flight.append(_launch(detector, batch, choice, cells))
        if len(in_flight) > choice.ahead:
            yield _collect(detector, in_flight.popleft(), choice, cells)
    for launched in in_flight:
        yield _collect(detector, launched, choice, cells)


def score_batch(detector: Detector, batch: TileBatch, choice: DeviceChoice, cells: int | None = None) -> ScoredTiles:
    """Score one batch and wait for it, see `score_stream`."""
    return _collect(detector, _launch(detector, batch, choice, cells), choice, cells)


def _launch(detector: Detector, batch: TileBatch, choice: DeviceChoice, cells: int | None) -> _InFlight:
    """Start scoring a batch; a GPU computes on while this returns at once."""
    side = detector.settings.tile_px
    if batch.images.shape[1:] != (side, side, 3):
        shape = "x".join(str(n) for n in batch.images.shape[1:])
        msg = f"the detector was trained on tiles of {side}x{side} px, these are {shape}"
        raise SettingsError(msg, f"cut or resize the tiles to {side} px, or train a detector for their size")
    try:
        with torch.inference_mode(), choice.autocast(detector):
            found = detector.score(choice.upload(batch.images))
            errors = None
            if cells is not None and found.error_map is not None:
                errors = F.adaptive_avg_pool2d(found.error_map.float()[:, None], cells)[:, 0]
            probabilities = None if found.probabilities is None else found.probabilities.float()
            return _InFlight(batch, TileScores(found.score.float(), errors, probabilities=probabilities))
    except torch.OutOfMemoryError:
        return _InFlight(batch, None)


def _collect(detector: Detector, launched: _InFlight, choice: DeviceChoice, cells: int | None) -> ScoredTiles:
    """Wait for a batch and return its scores; one that did not fit into memory is scored in halves."""
    batch, found = launched.batch, launched.scores
    if found is not None:
        scores = found.score.cpu().numpy()
        finite = np.isfinite(scores)
        if not finite.all():  # NaN in a map would look like a tile that could not be read
            msg = f"the {detector.name} detector gives no finite score for {(~finite).sum()} of {len(scores)} tiles"
            raise TrainingError(msg, "its training has diverged: train it again, with a lower learning rate or other settings")
        errors, probabilities = (
            None if values is None else values.cpu().numpy() for values in (found.error_map, found.probabilities)
        )
        return ScoredTiles(batch.index, scores, errors, probabilities, batch.failed)
    if len(batch.index) == 1:
        raise DeviceError("a single tile does not fit into the device's memory", "use --device cpu")
    if choice.device.type == "cuda":
        torch.cuda.empty_cache()
    half = len(batch.index) // 2
    parts = (TileBatch(batch.images[part], batch.index[part], batch.failed[part]) for part in (slice(half), slice(half, None)))
    return ScoredTiles.join([score_batch(detector, part, choice, cells) for part in parts])
