"""How fast this machine decodes, computes, and does both at once."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.engine._batch import batches_of, score_stream
from napari_histoad.engine._batch_tuner import Tuner, is_tunable
from napari_histoad.engine._detector_view import DetectorView
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._options import check_options
from napari_histoad.engine.mapping._blocks import decodes_ahead, score_blocks
from napari_histoad.engine.mapping._compile import compiled_job
from napari_histoad.engine.mapping._map import plan_map, write_blocks
from napari_histoad.jobs import Progress, run
from napari_histoad.maps import BLOCK_TILES, create_map
from napari_histoad.networks.threads import map_in_threads
from napari_histoad.tiles import TileLoader, find_tissue

if TYPE_CHECKING:
    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.engine.mapping._map import MapPlan
    from napari_histoad.errors import SlideError
    from napari_histoad.jobs import Job
    from napari_histoad.slide import Slide

_TURNS, _TURN_TILES = 5, 1000
"""So few tiles that beginning and end of a map would count are not mapped in turns."""


@dataclass(frozen=True)
class Speed:
    """Rates of the parts and of the whole, in tiles per second."""

    device: str
    pace: str  # tiles at a time and threads: the fastest of what was tried
    tiles: int  # that the whole was timed on
    tile_px: int
    stride_px: int
    decode: float  # reading and decoding alone, with all threads
    network: float  # scoring alone, of tiles in memory
    whole: float  # both at once, and writing the map
    shared: bool  # decoding and network share the same cores, as they do without a GPU
    peak_mb: float | None  # peak memory of the process, where the system reports it

    @property
    def bound(self) -> float:
        """What the whole cannot exceed: the slower part, or both in turn where they share cores."""
        return _bound(self.decode, self.network, shared=self.shared)

    @property
    def efficiency(self) -> float:
        """The whole as a part of its bound."""
        return self.whole / self.bound

    def megapixels(self, rate: float) -> float:
        """Return a rate of tiles as megapixels of tiles per second."""
        return rate * self.tile_px**2 / 1e6


def _bound(decode: float, network: float, *, shared: bool) -> float:
    return 1 / (1 / decode + 1 / network) if shared else min(decode, network)


@dataclass(frozen=True)
class _Timed:
    """So many tiles in so much time."""

    tiles: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.tiles / self.seconds

    def __add__(self, other: _Timed) -> _Timed:
        return _Timed(self.tiles + other.tiles, self.seconds + other.seconds)


def bench_job(
    slide: Slide,
    detector: Detector,
    *,
    device: str = "auto",
    compile: bool = False,  # noqa: A002 - as torch calls it
    stride_px: int | None = None,
    seconds: float = 5.0,
) -> Job[Speed]:
    """Time decoding, network and the whole on the first tiles of a slide, as many as fit into ``seconds`` each.

    They are timed in turns, of which the medians count: a machine that becomes slower meanwhile, because it is warm or shared,
    does so for each of them. Before that, for at most twice as long, it finds how many tiles at a time are scored fastest, as
    mapping does while it goes on. A slide that is finished too soon is opened anew and gone through again: nothing that was
    decoded is left from the time before. Other parameters are those of `map_job`; compiling is not timed.
    """
    check_options(stride_px=stride_px, seconds=seconds)
    choice = choose_device(device)
    yield Progress("Finding tissue", 0, 1, "slides")
    tissue = find_tissue(DetectorView.of(detector).of_slide(slide))
    plan = plan_map(slide, detector, tissue, stride_px=stride_px)
    detector.to(choice.device)
    if compile:
        detector = yield from compiled_job(detector, choice)
    else:
        yield Progress("Trying batch sizes", 0, 1, "parts")
        choice = _fastest(plan, detector, choice, 2 * seconds)
    cells, shared = plan.info.cells_per_tile, choice.device.type == "cpu"
    yield Progress("Timing the network", 0, 1, "parts")
    short_s = seconds / _TURNS
    first = _bound(_decode(plan, choice, short_s).rate, _score(detector, choice, cells, short_s).rate, shared=shared)
    turns = max(1, min(_TURNS, int(first * seconds / _TURN_TILES)))
    network, decode, whole = [], [], []
    for turn in range(turns):
        yield Progress("Timing the network", 3 * turn, 3 * turns, "parts")
        network.append(_score(detector, choice, cells, seconds / turns))
        yield Progress("Timing the decoder", 3 * turn + 1, 3 * turns, "parts")
        decode.append(_decode(plan, choice, seconds / turns))
        yield Progress("Timing the whole", 3 * turn + 2, 3 * turns, "parts")
        wanted = _bound(decode[-1].rate, network[-1].rate, shared=shared) * seconds / turns
        whole.append(_map(plan, detector, choice, wanted))
    yield Progress("Timing the whole", 3 * turns, 3 * turns, "parts")
    return Speed(
        device=choice.title,
        pace=choice.pace,
        tiles=sum(timed.tiles for timed in whole),
        tile_px=plan.grid.tile_px,
        stride_px=plan.grid.stride_px,
        decode=_typical(decode),
        network=_typical(network),
        whole=_typical(whole),
        shared=shared,
        peak_mb=_peak_mb(),
    )


def _typical(turns: list[_Timed]) -> float:
    return statistics.median(turn.rate for turn in turns)


def _fastest(plan: MapPlan, detector: Detector, choice: DeviceChoice, seconds: float) -> DeviceChoice:
    """Return the fastest way that was found to score in so much time."""
    if not is_tunable(detector):
        return choice
    tuner, blocks = Tuner(choice, worth_s=0, worth_blocks=0), range(-(-len(plan.grid) // BLOCK_TILES))
    cells, started = plan.info.cells_per_tile, time.perf_counter()
    while True:
        with (
            deepcopy(plan.slide) as slide,
            closing(score_blocks(slide, plan.grid, blocks, detector, choice, cells, [], tuner)) as scored,
        ):
            for _ in scored:
                if tuner.settled or time.perf_counter() - started > seconds:
                    return tuner.best


def _score(detector: Detector, choice: DeviceChoice, cells: int, seconds: float) -> _Timed:
    """Score tiles that are in memory."""
    side = detector.settings.tile_px
    images = np.random.default_rng(0).integers(0, 256, (choice.batch, side, side, 3), np.uint8)
    tiles = 0
    batches = repeat(next(batches_of(images, choice.batch)))
    with closing(score_stream(detector, choice, batches, cells)) as stream:
        for _ in range(2 * (choice.ahead + 1)):
            next(stream)  # the first batches also allocate and compile
        started = time.perf_counter()
        while not tiles or time.perf_counter() - started < seconds:
            next(stream)
            tiles += choice.batch
        return _Timed(tiles, time.perf_counter() - started)


def _decode(plan: MapPlan, choice: DeviceChoice, seconds: float) -> _Timed:
    """Decode as `score_blocks` does, and score nothing."""
    timed = _Timed()
    while timed.seconds < seconds:
        tiles = 0
        with deepcopy(plan.slide) as slide:
            loader = TileLoader(slide, plan.grid, batch=choice.batch, allocate=choice.allocate)
            ahead = decodes_ahead(slide, choice)
            started = time.perf_counter()
            with closing(
                iter(loader)
                if ahead
                else map_in_threads(loader.decode, loader.undecoded(), choice.device, choice.worker_threads, len(loader))
            ) as batches:
                for batch in batches:
                    tiles += len(batch.index)
                    if timed.seconds + time.perf_counter() - started > seconds:
                        break
            timed += _Timed(tiles, time.perf_counter() - started)
    return timed


def _map(plan: MapPlan, detector: Detector, choice: DeviceChoice, wanted: float) -> _Timed:
    """Map about so many tiles, the first ones of the slide or all of them again and again."""
    blocks = range(max(1, min(round(wanted / BLOCK_TILES), -(-len(plan.grid) // BLOCK_TILES))))
    grid = plan.grid.subset(np.arange(min(len(blocks) * BLOCK_TILES, len(plan.grid))))
    info = plan.info.model_copy(update={"tiles": len(grid)})
    timed = _Timed()
    for _ in range(max(1, round(wanted / len(grid)))):
        with deepcopy(plan.slide) as slide, tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "bench.ome.zarr"
            target = create_map(file, info, origins=grid.origins, tissue=plan.tissue, calibration=plan.calibration)
            started = time.perf_counter()
            errors: list[SlideError] = []
            computed = score_blocks(slide, grid, blocks, detector, choice, info.cells_per_tile, errors)
            run(write_blocks(target, computed, errors, 0, len(grid)))
            timed += _Timed(len(grid), time.perf_counter() - started)
    return timed


def _peak_mb() -> float | None:
    if os.name == "nt":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
