"""Score blocks of tiles on the workers of a dask.distributed cluster.

The client finds the tissue, creates the map and writes its tile table, journal and pyramids. Each worker loads the detector
once, opens the slide once, and writes the error maps of its blocks. If a worker dies, its blocks go to another one.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import socket
import tempfile
import time
import warnings
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast
from uuid import uuid4

import numpy as np

from napari_histoad import __version__
from napari_histoad.classifiers import load_model, save_model
from napari_histoad.engine._detector_view import DetectorView
from napari_histoad.engine._device import choose_device
from napari_histoad.engine.mapping._blocks import BlockJoiner, block_rows, score_blocks
from napari_histoad.engine.mapping._compile import compiled_job
from napari_histoad.errors import HistoadError, SettingsError, SlideError, WorkerError
from napari_histoad.jobs import Progress, run
from napari_histoad.maps import BLOCK_TILES, AnomalyMap, ScoredTiles, write_error_maps
from napari_histoad.slide import address, open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.slide import Slide
    from napari_histoad.tiles import Stain, TileGrid

T = TypeVar("T")

_Done: TypeAlias = tuple[list[ScoredTiles], list[tuple[str, str]]]
"""Blocks without their error maps, and the arguments of a SlideError for each tile that could not be read."""

_BLOCKS_PER_TASK = 4
"""Upper limit: enough that decoding overlaps scoring within a task, few enough that little is lost if a worker dies."""
_LONG_S = 0.25
"""For tasks longer than this, the 10 ms or so of fetching the next task do not matter."""
_CONNECT_S, _WORKERS_S, _ALONE_S, _NEWS_S = 5, 30, 120, 0.5
_ADDRESS = re.compile(r"^(?:(?:tcp|tls|ws|wss)://)?(?P<host>\[[^\]\s]+\]|[^:/\s\[\]]+):(?P<port>\d{1,5})/?$")


def _check_answers(address: str) -> None:
    """Raise a SettingsError if the address is malformed or nothing listens there; dask itself would retry for long."""
    if address.startswith(("inproc://", "ucx://")):
        return  # these use no socket
    found = _ADDRESS.match(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise SettingsError(f"--scheduler {address} is not the address of a scheduler", "give it as tcp://host:8786")
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=_CONNECT_S).close()
    except OSError as err:
        remedy = "start one with: dask scheduler; its first lines say its address"
        raise SettingsError(f"no scheduler answers at {address} ({err.strerror or err})", remedy) from err


@contextmanager
def _quiet_dask() -> Iterator[None]:
    """Silence dask's log of failed connections; our own error reports them."""
    before = {name: logging.getLogger(name).level for name in ("distributed", "distributed.client")}
    for name in before:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


class Cluster:
    """A running dask.distributed scheduler and its workers; a context manager.

    The address is such as ``tcp://host:8786``. Workers must see the slides and the folder of results under the same paths as this
    process. Raises `SettingsError` if nothing answers there, it has no worker, or the workers run another version of this
    package.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as err:
            remedy = 'install it here and on the workers: pip install "napari-histoad[cluster]"'
            raise SettingsError("dask.distributed is not installed", remedy) from err
        _check_answers(address)
        remedy = "start one with: dask scheduler; its first lines say its address"
        try:
            with _quiet_dask():
                self._client: Any = cast("Any", Client)(address, timeout=_CONNECT_S, set_as_default=False)
        except Exception as err:  # dask raises various types for unknown protocols
            raise SettingsError(f"no scheduler answers at {address}", remedy) from err
        try:
            self._client.wait_for_workers(1, timeout=_WORKERS_S)
            versions = set(self._client.run(_version).values())
        except TimeoutError as err:
            self._client.close()
            remedy = f"start some: dask worker {address} --nworkers 2 --nthreads 1"
            raise SettingsError(f"the scheduler at {address} has no workers", remedy) from err
        except Exception as err:
            self._client.close()
            raise SettingsError(f"the workers at {address} cannot run this package ({err})", "install it there too") from err
        if versions != {__version__}:
            self._client.close()
            msg = f"the workers run napari-histoad {', '.join(sorted(versions))}, this is {__version__}"
            raise SettingsError(msg, "install the same version everywhere")

    @property
    def workers(self) -> int:
        """Current number of workers."""
        return len(self._client.scheduler_info(n_workers=-1)["workers"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with _quiet_dask():  # a connection that was lost has been reported
            self._client.close()

    def blocks(
        self,
        slide: Slide,
        grid: TileGrid,
        blocks: Sequence[int],
        detector: Detector,
        target: Path,
        device: str,
        errors: list[SlideError],
        own_stain: Stain | None = None,
        *,
        compile: bool = False,  # noqa: A002 - as torch calls it
    ) -> Generator[ScoredTiles | Progress]:
        """Score blocks; workers write the error maps into the map ``target``, and the reasons of failed tiles go to ``errors``.

        If the detector normalises stains, ``own_stain`` are those of the slide. With ``compile`` each worker compiles the
        detector for itself. Raises the errors of a worker, and `WorkerError` if workers die again and again, or none is left for
        two minutes.
        """
        common = {
            "slide": (address(slide.path), slide.require_mpp(), own_stain),
            "target": (str(target.resolve()), uuid4().hex),
            "making": (device, compile),
        }
        bundle = self._lay_out(_bytes_of(detector))
        tasks = (common | {"grids": _grids(grid, part)} for part in _parts(blocks, self.workers))
        alone_since = time.monotonic()

        def submit(task: dict[str, Any], worker: str) -> Any:
            return self._client.submit(_work, bundle, task, pure=False, workers=[worker], allow_other_workers=True)

        with closing(_deal(submit, tasks, self._threads)) as dealt:
            for future in dealt:
                if future is not None:
                    alone_since = time.monotonic()
                    done, failures = _result(future)
                    errors += [SlideError(*failure) for failure in failures]
                    yield from done
                    continue
                if self.workers:
                    alone_since = time.monotonic()
                elif time.monotonic() - alone_since > _ALONE_S:
                    raise WorkerError("no worker is left", "start some; the same command continues the run")
                yield Progress("Mapping")

    def _threads(self) -> dict[str, int]:
        """Return how many tasks each worker does at once, by address."""
        try:
            return dict(self._client.nthreads())
        except Exception as err:  # of many kinds, as the connection is closing or closed
            raise _connection_lost() from err

    def _lay_out(self, bundle: bytes) -> Any:
        """Submit the bundle as a task: workers pass it on, and dask recomputes it if all workers that hold it have died."""
        key = f"detector-{hashlib.sha256(bundle).hexdigest()}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dask advises scatter(), but scattered data are lost with their worker
            return self._client.submit(bytes, bundle, key=key)


def _deal(submit: Callable[[T, str], Any], tasks: Iterable[T], threads: Callable[[], dict[str, int]]) -> Generator[Any]:
    """Submit tasks in their order and yield their futures as they finish; None when none has for half a second.

    If all tasks were submitted at once, the scheduler, which does not know how long a task takes and prefers workers that have
    the detector already, would leave some workers idle at the end. So each worker gets one task per thread (``threads()`` by
    address), and a second one while tasks are so short that a thread would wait for its next. Remaining tasks are cancelled at
    the end, also after an exception.
    """
    finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
    left, given, more = iter(tasks), dict[Any, str](), True
    started, done = time.monotonic(), 0
    try:
        while True:
            workers = threads()
            long = done and sum(workers.values()) * (time.monotonic() - started) / done > _LONG_S
            while more and (free := _free(workers, list(given.values()), 1 if long else 2)):
                for task in islice(left, 1):
                    future = submit(task, free)
                    given[future] = free
                    future.add_done_callback(finished.put)
                    break
                else:
                    more = False
            if not more and not given:
                return
            try:
                future = finished.get(timeout=_NEWS_S)
            except queue.Empty:
                yield None
                continue
            del given[future]
            done += 1
            yield future
    finally:
        for future in given:
            future.cancel()


def _free(workers: dict[str, int], given: list[str], each: int) -> str | None:
    """Return the least busy worker if it has fewer than ``each`` tasks per thread, else None."""
    load = {given.count(address) / threads: address for address, threads in reversed(workers.items())}
    return load[min(load)] if load and min(load) < each else None


def _result(future: Any) -> _Done:
    from distributed import KilledWorker

    try:
        return cast("_Done", future.result())
    except HistoadError:
        raise
    except CancelledError as err:  # we do not ask for results of tasks that we cancel: the connection was closed
        raise _connection_lost() from err
    except KilledWorker as err:
        msg = f"workers died one after the other on the same tiles ({err.last_worker.address} last)"
        raise WorkerError(msg, "look into the workers' logs: memory is the usual reason") from err
    except Exception as err:
        raise WorkerError(f"a worker failed ({type(err).__name__}: {err})", "look into the workers' logs") from err


def _connection_lost() -> WorkerError:
    remedy = "start it and its workers; the same command continues the run"
    return WorkerError("the connection to the scheduler was lost", remedy)


def _parts(blocks: Sequence[int], workers: int) -> Iterator[Sequence[int]]:
    """Yield the blocks of each task, fewer towards the end, so that all workers finish at about the same time."""
    start = 0
    while start < len(blocks):
        count = min(_BLOCKS_PER_TASK, max(1, (len(blocks) - start) // (2 * max(1, workers))))
        yield blocks[start : start + count]
        start += count


def _grids(grid: TileGrid, blocks: Sequence[int]) -> dict[int, TileGrid]:
    """Return the tiles of some blocks, so that workers are not sent the whole grid."""
    return {block: replace(grid, origins=grid.origins[block_rows(block, len(grid))]) for block in blocks}


def _bytes_of(detector: Detector) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        return save_model(detector, Path(scratch) / "detector.safetensors").read_bytes()


# -- on the workers


def _version() -> str:
    return __version__


_detectors: dict[tuple[str, str, bool], tuple[Detector, DeviceChoice]] = {}


def _detector(bundle: bytes, device: str, compile: bool) -> tuple[Detector, DeviceChoice]:  # noqa: A002, FBT001 - as in a task
    """Return the detector on its device; the last one stays loaded."""
    key = (hashlib.sha256(bundle).hexdigest(), device, compile)
    known = _detectors.get(key)
    if known is None:
        choice = choose_device(device)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "detector.safetensors"
            file.write_bytes(bundle)
            detector = load_model(file)
        detector.to(choice.device)
        if compile:
            detector = run(compiled_job(detector, choice))
        _detectors.clear()
        known = _detectors[key] = (detector, choice)
    return known


@lru_cache(maxsize=2)
def _slide(path: str, mpp: float, own_stain: Stain | None, view: DetectorView) -> Slide:
    return view.of_slide(open_slide(path, mpp, srgb=view.srgb), own_stain)


@lru_cache(maxsize=2)
def _target(path: str, run: str) -> AnomalyMap:  # noqa: ARG001 - part of the cache key: another run may have replaced the map
    return AnomalyMap.open(path)


def _work(bundle: bytes, task: dict[str, Any]) -> _Done:
    """Score the blocks of a task and write their error maps."""
    detector, choice = _detector(bundle, *task["making"])
    slide, target = _slide(*task["slide"], DetectorView.of(detector)), _target(*task["target"])
    numbers = list(task["grids"])
    # Here the blocks are numbered from 0; all but the last one of a map are full, so the rows agree.
    grids = [task["grids"][number] for number in numbers]
    grid = replace(grids[0], origins=np.concatenate([g.origins for g in grids]))
    done: list[ScoredTiles] = []
    errors: list[SlideError] = []
    joiner = BlockJoiner(len(grid))
    for part in score_blocks(slide, grid, range(len(numbers)), detector, choice, target.geometry.cells_per_tile, errors):
        block = None if isinstance(part, Progress) else joiner.add(part)
        if block is not None:
            block = replace(block, index=block.index + (numbers[len(done)] - len(done)) * BLOCK_TILES)
            write_error_maps(target, block)
            done.append(replace(block, error_cells=None))
    return done, [(err.what, err.remedy) for err in errors]
