"""A detector compiled for this machine: faster tile by tile, after a wait before the first."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_histoad.engine._batch import batches_of, score_stream
from napari_histoad.errors import DeviceError
from napari_histoad.jobs import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histoad.detectors import Detector, TileScores
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.jobs import Job

_last: tuple[Detector, DeviceChoice, Detector] | None = None
"""What was compiled last: slide after slide is mapped with the same detector."""


def compiled_job(detector: Detector, choice: DeviceChoice) -> Job[Detector]:
    """Return a copy of a detector that scores with what `torch.compile` makes of its method; the original stays as it is.

    Scores differ in the last digits, as they do between kinds of devices. A method that would become slower is returned as it is.
    Raises `DeviceError` if it cannot be compiled here, such as without a C++ compiler.
    """
    global _last
    if not detector.compiles:
        yield Progress("Compiling", 1, 1, "steps", note=f"{detector.name} is not compiled: it would be slower")
        return detector
    yield Progress("Compiling", 0, 1, "steps")
    if _last is None or _last[0] is not detector or _last[1] != choice:
        fast = copy.copy(detector)
        fast.score = _Score(detector, choice.batch)  # type: ignore[method-assign]
        side = detector.settings.tile_px
        tiles = np.zeros((choice.batch, side, side, 3), np.uint8)
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # what torch reports to its developers
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in score_stream(fast, choice, batches_of(tiles, choice.batch)):  # in the thread that will use it
                    pass
        except Exception as err:
            reason = (str(err).strip().splitlines() or [type(err).__name__])[0][:160]
            msg = f"{detector.name} cannot be compiled here ({reason})"
            raise DeviceError(msg, "leave out --compile; it needs a C++ compiler, on a GPU Triton") from err
        finally:
            logging.disable(before)
        _last = (detector, choice, fast)
    yield Progress("Compiling", 1, 1, "steps")
    return _last[2]


def is_compiled(detector: Detector) -> bool:
    """Return whether a detector is one that `compiled_job` has made, for one size of batches and number of threads."""
    return isinstance(detector.score, _Score)


class _Score:
    """Scores batches of the size for which it is compiled; another size would be compiled anew: it goes the plain way."""

    def __init__(self, detector: Detector, batch: int) -> None:
        self._plain, self._compiled, self._batch = detector.score, torch.compile(detector.score, dynamic=False), batch

    def __call__(self, images: Tensor) -> TileScores:
        return self._compiled(images) if len(images) == self._batch else self._plain(images)
