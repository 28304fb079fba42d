"""Decode and score blocks of tiles.

With a GPU, or for slides that are read over the network, threads decode the next batches while the current one is scored. On a
CPU each worker thread decodes a batch, scores it, and takes the next: separate decoding threads would only take cores away
from scoring.

The scores of a block do not depend on which other blocks are scored before, after or on another machine: a batch never spans
two blocks, and its size depends on the kind of device alone, or is one that was checked to give the same bytes, see `Tuner`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._batch import score_batch, score_stream
from napari_histoad.engine._batch_tuner import Step, tuner_of
from napari_histoad.jobs import Progress
from napari_histoad.maps import BLOCK_TILES, ScoredTiles
from napari_histoad.networks.threads import map_in_threads, thread_count
from napari_histoad.slide import is_remote
from napari_histoad.tiles import TileLoader

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._batch_tuner import Tuner
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.errors import SlideError
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import TileGrid, UndecodedBatch


def block_rows(block: int, tiles: int) -> NDArray[np.int64]:
    """Return the rows of the tile table that make up a block, of a map with ``tiles`` tiles."""
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
    errors: list[SlideError],
    tuner: Tuner | None = None,
) -> Generator[ScoredTiles | Progress]:
    """Decode and score blocks of tiles; yield each batch as it is scored, and progress as a sign of life or to pass on a note.

    ``grid`` holds all tiles in the order of work, ``blocks`` are ascending. Why tiles could not be read is appended to
    ``errors``. The first blocks are used to find the fastest batch size and number of threads, by the detector's own tuner.
    """
    tuner = tuner_of(detector, choice) if tuner is None else tuner
    # An incomplete last block is scored with the default settings: it was not among those compared.
    whole = len(blocks) - (tiles_in(blocks[-1:], len(grid)) < BLOCK_TILES)
    first, told = 0, tuner.settled
    while first < whole:
        step = tuner.step(whole - first)
        if tuner.settled and not told:
            yield Progress("Mapping", note=tuner.note)
            told = True
        part = blocks[first : first + step.blocks]
        if first + step.blocks == whole and step == Step(choice, step.blocks):
            part = blocks[first:]  # no thread waits for the full blocks before the last one is begun
        started = time.perf_counter()
        parts = []
        for scored in _score_batches(slide, grid, part, detector, step.choice, cells, errors):
            if step.against is not None:
                parts.append(scored)
            yield scored
        tuner.took(step, tiles_in(part, len(grid)), time.perf_counter() - started)
        if step.against is not None:
            others = []
            for scored in _score_batches(slide, grid, part, detector, step.against, cells, []):
                others.append(scored)
                yield Progress("Mapping")
            tuner.compared(same=_values(parts) == _values(others))
        first += len(part)
    if first < len(blocks):
        yield from _score_batches(slide, grid, blocks[first:], detector, choice, cells, errors)


def _values(parts: list[ScoredTiles]) -> bytes:
    """Return all scores, error maps and probabilities of some tiles as bytes."""
    found = ScoredTiles.join(parts)
    return b"".join(array.tobytes() for array in (found.scores, found.error_cells, found.probabilities) if array is not None)


def _score_batches(
    slide: Slide,
    grid: TileGrid,
    blocks: Sequence[int],
    detector: Detector,
    choice: DeviceChoice,
    cells: int,
    errors: list[SlideError],
) -> Iterator[ScoredTiles]:
    """Decode and score blocks with one setting."""
    rows = np.concatenate([block_rows(block, len(grid)) for block in blocks])
    loader = TileLoader(slide, grid, batch=choice.batch, index=rows, allocate=choice.allocate, keep=choice.ahead)

    def decode_and_score(undecoded: UndecodedBatch) -> ScoredTiles:
        return score_batch(detector, loader.decode(undecoded), choice, cells)

    if decodes_ahead(slide, choice):
        yield from score_stream(detector, choice, loader, cells)
    else:
        yield from map_in_threads(decode_and_score, loader.undecoded(), choice.device, choice.worker_threads, len(loader))
    errors += loader.errors


def decodes_ahead(slide: Slide, choice: DeviceChoice) -> bool:
    """Return whether separate threads decode ahead: with a GPU, for remote slides, or with one worker thread.

    On a CPU with one worker thread, torch computes each batch with several threads: decoding in between would keep them waiting.
    """
    return choice.device.type != "cpu" or is_remote(slide.path) or choice.worker_threads < min(2, thread_count())


class BlockJoiner:
    """Joins batches to blocks; a batch never spans two blocks because a block is a multiple of a batch."""

    def __init__(self, tiles: int) -> None:
        self._tiles = tiles
        self._parts: list[ScoredTiles] = []

    def add(self, part: ScoredTiles) -> ScoredTiles | None:
        """Take the next batch; return the block that it completes, or None."""
        self._parts.append(part)
        if (part.index[-1] + 1) % BLOCK_TILES and part.index[-1] + 1 != self._tiles:
            return None
        block, self._parts = ScoredTiles.join(self._parts) if len(self._parts) > 1 else part, []
        return block
