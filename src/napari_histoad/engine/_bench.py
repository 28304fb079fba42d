"""How fast this machine decodes, computes, and does both at once."""

from __future__ import annotations

import os
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

from napari_histoad.engine._batch import score_stream
from napari_histoad.engine._blocks import GATHER_S, decodes_ahead, score_blocks
from napari_histoad.engine._compile import compiled_job
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._map import plan_map, write_blocks
from napari_histoad.engine._tune import Tuner
from napari_histoad.jobs import Progress, run
from napari_histoad.maps import BLOCK_TILES, AnomalyMap
from napari_histoad.networks.lanes import in_lanes
from napari_histoad.tiles import TileLoader, find_tissue

if TYPE_CHECKING:
    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.engine._map import MapPlan
    from napari_histoad.jobs import Job
    from napari_histoad.slide import Slide

__all__ = ["Speed", "bench_job"]


@dataclass(frozen=True)
class Speed:
    """Rates of the parts and of the whole, in tiles per second.

    Attributes
    ----------
    device : str
    pace : str
        How many tiles at a time, in how many threads: the fastest of what was tried.
    tiles : int
        Tiles that the whole was timed on.
    tile_px, stride_px : int
    decode : float
        Reading and decoding alone, with all threads.
    network : float
        Scoring alone, of tiles in memory.
    whole : float
        Both at once, and writing the map.
    shared : bool
        Whether decoding and network share the same cores, as they do without a GPU.
    peak_mb : float or None
        Most memory that the process has held, where the system says.
    """

    device: str
    pace: str
    tiles: int
    tile_px: int
    stride_px: int
    decode: float
    network: float
    whole: float
    shared: bool
    peak_mb: float | None

    @property
    def bound(self) -> float:
        """What the whole cannot exceed: the slower part, or both in turn where they share cores."""
        return 1 / (1 / self.decode + 1 / self.network) if self.shared else min(self.decode, self.network)

    @property
    def efficiency(self) -> float:
        """The whole as a part of its bound."""
        return self.whole / self.bound

    def megapixels(self, rate: float) -> float:
        """Return a rate of tiles as megapixels of tiles per second."""
        return rate * self.tile_px**2 / 1e6


def bench_job(
    slide: Slide,
    detector: Detector,
    *,
    device: str = "auto",
    compile: bool = False,  # noqa: A002 - as torch calls it
    stride_px: int | None = None,
    seconds: float = 5.0,
) -> Job[Speed]:
    """Time decoding, network and the whole on the first tiles of a slide, as many as fit into the time.

    Before that it tries how many tiles at a time are scored fastest, as mapping does while it goes on. A slide that is done
    too soon is opened anew and gone through again: nothing that was decoded is left from the time before.

    Parameters
    ----------
    slide : Slide
    detector : Detector
        Calibrated.
    device : str
    compile : bool
        As in mapping; what that takes is not timed.
    stride_px : int, optional
        Step between tiles; default half a tile, as in mapping.
    seconds : float
        About how long each of the three is timed, and at most twice as long is tried before.

    Raises
    ------
    HistoadError
        As `map_job`.
    """
    choice = choose_device(device)
    yield Progress("Finding tissue", 0, 1, "slides")
    tissue = find_tissue(slide.in_srgb(detector.settings.srgb))
    plan = plan_map(slide, detector, tissue, stride_px=stride_px)
    detector.to(choice.device)
    if compile:
        detector = yield from compiled_job(detector, choice)
    else:
        yield Progress("Trying batch sizes", 0, 1, "parts")
        choice = _fastest(plan, detector, choice, 2 * seconds)
    yield Progress("Timing the network", 0, 3, "parts")
    network = _network_rate(detector, choice, plan.info.cells_per_tile, seconds)
    yield Progress("Timing the decoder", 1, 3, "parts")
    decode = _decode_rate(plan, choice, seconds)
    yield Progress("Timing the whole", 2, 3, "parts")
    wanted = seconds / (1 / decode + 1 / network) if choice.device.type == "cpu" else seconds * min(decode, network)
    tiles, whole = _whole_rate(plan, detector, choice, wanted)
    yield Progress("Timing the whole", 3, 3, "parts")
    return Speed(
        device=choice.title,
        pace=choice.pace,
        tiles=tiles,
        tile_px=plan.grid.tile_px,
        stride_px=plan.grid.stride_px,
        decode=decode,
        network=network,
        whole=whole,
        shared=choice.device.type == "cpu",
        peak_mb=_peak_mb(),
    )


def _fastest(plan: MapPlan, detector: Detector, choice: DeviceChoice, seconds: float) -> DeviceChoice:
    """Return the fastest way that was found to score in so much time."""
    tuner, blocks = Tuner(choice, worth_s=0, worth_blocks=0), range(-(-len(plan.grid) // BLOCK_TILES))
    cells, started = plan.info.cells_per_tile, time.perf_counter()
    while True:
        with (
            deepcopy(plan.slide) as slide,
            closing(score_blocks(slide, plan.grid, blocks, detector, choice, cells, tuner)) as scored,
        ):
            for _ in scored:
                if tuner.settled or time.perf_counter() - started > seconds:
                    return tuner.best


def _network_rate(detector: Detector, choice: DeviceChoice, cells: int, seconds: float) -> float:
    side = detector.settings.tile_px
    images = np.random.default_rng(0).integers(0, 256, (choice.batch, side, side, 3), np.uint8)
    stream = score_stream(detector, choice, repeat((None, images)), cells)
    for _ in range(2 * (choice.ahead + 1)):
        next(stream)  # the first batches also allocate and compile
    count, started = 0, time.perf_counter()
    while not count or time.perf_counter() - started < seconds:
        next(stream)
        count += choice.batch
    rate = count / (time.perf_counter() - started)
    stream.close()
    return rate


def _decode_rate(plan: MapPlan, choice: DeviceChoice, seconds: float) -> float:
    """Decode as `score_blocks` does, and score nothing."""
    count, took = 0, 0.0
    while took < seconds:
        with deepcopy(plan.slide) as slide:
            loader = TileLoader(slide, plan.grid, batch=choice.batch, allocate=choice.allocate)
            ahead = decodes_ahead(slide, choice)
            started = time.perf_counter()
            with closing(
                iter(loader) if ahead else in_lanes(loader.decode, loader.undecoded(), choice.device, choice.lanes, GATHER_S)
            ) as batches:
                for batch in batches:
                    count += len(batch.index)
                    if took + time.perf_counter() - started > seconds:
                        break
                took += time.perf_counter() - started
    return count / took


def _whole_rate(plan: MapPlan, detector: Detector, choice: DeviceChoice, wanted: float) -> tuple[int, float]:
    """Map about so many tiles, the first ones of the slide or all of them again and again; return how many, and the rate."""
    blocks = range(max(1, min(round(wanted / BLOCK_TILES), -(-len(plan.grid) // BLOCK_TILES))))
    grid = plan.grid.subset(np.arange(min(len(blocks) * BLOCK_TILES, len(plan.grid))))
    info = plan.info.model_copy(update={"tiles": len(grid)})
    passes, took = max(1, round(wanted / len(grid))), 0.0
    for _ in range(passes):
        with deepcopy(plan.slide) as slide, tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "bench.ome.zarr"
            target = AnomalyMap.create(file, info, origins=grid.origins, tissue=plan.tissue, calibration=plan.calibration)
            started = time.perf_counter()
            computed = score_blocks(slide, grid, blocks, detector, choice, info.cells_per_tile)
            run(write_blocks(target, computed, 0, len(grid)))
            took += time.perf_counter() - started
    return passes * len(grid), passes * len(grid) / took


def _peak_mb() -> float | None:
    if os.name == "nt":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
