"""Scores of blocks of tiles, as fast as decoding and computing go at once.

While a GPU computes, or pixels come over the network, threads decode what comes next. Otherwise each core decodes a batch and
scores it, then the next: threads of their own for decoding would only take cores from those that compute, and every batch
would be handed over twice.

A block is scored in batches of its own, of a size that follows from the kind of device, or of another that was seen to give
the same bytes, see `Tuner`: what comes out does not depend on which other blocks are scored before, after or elsewhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._batch import Collected, score_batch, score_stream
from napari_histoad.engine._tune import Step, tuner_of
from napari_histoad.maps import BLOCK_TILES
from napari_histoad.networks.threads import map_in_threads, thread_count
from napari_histoad.slide import is_remote
from napari_histoad.tiles import TileLoader

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.engine._tune import Tuner
    from napari_histoad.errors import SlideError
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import TileGrid, UndecodedBatch

    _Scored = tuple[NDArray[np.int64], NDArray[np.bool_], Collected]

__all__ = ["BlockScores", "block_rows", "decodes_ahead", "score_blocks", "tiles_in"]


@dataclass(frozen=True)
class BlockScores:
    """What was computed last.

    Attributes
    ----------
    tiles : int
        Tiles scored since the last report.
    block : int or None
        The block that is finished by them, if one is.
    scores : (B,) float32 or None
        Of that block; NaN where a tile could not be decoded.
    error_maps : (B, cells, cells) float32 or None
    probabilities : (B, K) float32 or None
        Of classes, if a classifier goes with the detector.
    errors : list of SlideError
        Why tiles could not be decoded, since the last report.
    stored : bool
        Whether the error maps are in the map already.
    note : str
        A line worth showing.
    """

    tiles: int
    block: int | None
    scores: NDArray[np.float32] | None
    error_maps: NDArray[np.float32] | None
    errors: list[SlideError]
    stored: bool = False
    probabilities: NDArray[np.float32] | None = None
    note: str = ""


def block_rows(block: int, tiles: int) -> NDArray[np.int64]:
    """Return the rows of a grid of so many tiles that make up a block."""
    return np.arange(block * BLOCK_TILES, min((block + 1) * BLOCK_TILES, tiles), dtype=np.int64)


def tiles_in(blocks: Sequence[int] | set[int], tiles: int) -> int:
    """Return how many tiles there are in some blocks."""
    return sum(len(block_rows(block, tiles)) for block in blocks)


def score_blocks(
    slide: Slide,
    grid: TileGrid,
    blocks: Sequence[int],
    detector: Detector,
    choice: DeviceChoice,
    cells: int,
    tuner: Tuner | None = None,
) -> Generator[BlockScores]:
    """Decode and score blocks, one report per batch; how many tiles at a time, and in how many threads, is tried meanwhile.

    Parameters
    ----------
    slide : Slide
    grid : TileGrid
        All tiles of the map in the order of work.
    blocks : sequence of int
        Ascending.
    detector : Detector
        On the device.
    choice : DeviceChoice
    cells : int
        Pool error maps to this many cells down and across.
    tuner : Tuner, optional
        Default the detector's own.
    """
    tuner = tuner_of(detector, choice) if tuner is None else tuner
    # A last block that is not whole is scored the default way: it was not among those compared.
    whole = len(blocks) - (tiles_in(blocks[-1:], len(grid)) < BLOCK_TILES)
    first, told = 0, tuner.settled
    while first < whole:
        step = tuner.step(whole - first)
        if tuner.settled and not told:
            yield BlockScores(0, None, None, None, [], note=tuner.note)
            told = True
        part = blocks[first : first + step.blocks]
        if first + step.blocks == whole and step == Step(choice, step.blocks):
            part = blocks[first:]  # nobody waits for the whole ones before the last is begun
        started = time.perf_counter()
        values = []
        for scored in _scored_blocks(slide, grid, part, detector, step.choice, cells):
            if step.against is not None:
                values.append(_values(scored))
            yield scored
        tuner.took(step, tiles_in(part, len(grid)), time.perf_counter() - started)
        if step.against is not None:
            others = []
            for scored in _scored_blocks(slide, grid, part, detector, step.against, cells):
                others.append(_values(scored))
                yield BlockScores(0, None, None, None, [])
            tuner.compared(same=b"".join(values) == b"".join(others))
        first += len(part)
    if first < len(blocks):
        yield from _scored_blocks(slide, grid, blocks[first:], detector, choice, cells)


def _values(scored: BlockScores) -> bytes:
    """Return the bytes of what a block was scored, if one is finished."""
    found = (scored.scores, scored.error_maps, scored.probabilities)
    return b"".join(array.tobytes() for array in found if array is not None)


def _scored_blocks(
    slide: Slide, grid: TileGrid, blocks: Sequence[int], detector: Detector, choice: DeviceChoice, cells: int
) -> Iterator[BlockScores]:
    """Decode and score blocks one way."""
    rows = np.concatenate([block_rows(block, len(grid)) for block in blocks])
    loader = TileLoader(slide, grid, batch=choice.batch, index=rows, allocate=choice.allocate, keep=choice.ahead)
    collector = _Collector(loader, len(grid))
    for index, failed, found in _scored(loader, detector, choice, cells, ahead=decodes_ahead(slide, choice)):
        yield collector.take(index, failed, found)


def decodes_ahead(slide: Slide, choice: DeviceChoice) -> bool:
    """Return whether threads decode ahead of computing: a GPU, and the network, leave cores free for that.

    Where one thread hands one batch after the other to all of torch's, it is kept from decoding itself.
    """
    return choice.device.type != "cpu" or is_remote(slide.path) or choice.lanes < min(2, thread_count())


def _scored(loader: TileLoader, detector: Detector, choice: DeviceChoice, cells: int, *, ahead: bool) -> Iterator[_Scored]:
    if ahead:
        for batch, found in score_stream(detector, choice, ((batch, batch.images) for batch in loader), cells):
            yield batch.index, batch.failed, found
        return

    def decode_and_score(undecoded: UndecodedBatch) -> _Scored:
        batch = loader.decode(undecoded)
        return batch.index, batch.failed, score_batch(detector, batch.images, choice, cells)

    yield from map_in_threads(decode_and_score, loader.undecoded(), choice.device, choice.lanes, len(loader))


class _Collector:
    """Joins batches to blocks; batches never straddle blocks because blocks are whole batches."""

    def __init__(self, loader: TileLoader, tiles: int) -> None:
        self._loader, self._tiles = loader, tiles
        self._parts: list[Collected] = []
        self._errors_seen = 0

    def take(self, index: NDArray[np.int64], failed: NDArray[np.bool_], found: Collected) -> BlockScores:
        missing = np.float32(np.nan)
        said = None if found.probabilities is None else np.where(failed[:, None], missing, found.probabilities)
        self._parts.append(Collected(np.where(failed, missing, found.scores), found.error_maps, said))
        errors = self._loader.errors[self._errors_seen :]
        self._errors_seen += len(errors)
        block = int(index[0]) // BLOCK_TILES
        if index[-1] + 1 != min((block + 1) * BLOCK_TILES, self._tiles):
            return BlockScores(len(index), None, None, None, errors)
        joined, self._parts = Collected.join(self._parts), []
        return BlockScores(len(index), block, joined.scores, joined.error_maps, errors, probabilities=joined.probabilities)
