"""How many tiles at a time, in how many threads: found on the work itself, by trying.

Which is fastest depends on network and machine: an autoencoder of small pictures gains a half from batches of twice the
size, one that keeps large activations loses a quarter. What is scored while trying is kept. A setting is only used if it
scores a block of tiles to the same bytes as the default one, so that a map does not depend on what was tried, or when.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from napari_histoad.engine.mapping._compile import is_compiled
from napari_histoad.maps import BLOCK_TILES

if TYPE_CHECKING:
    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice

    Direction = Callable[[DeviceChoice], DeviceChoice | None]

__all__ = ["Step", "Tuner", "tuner_of"]

_ROUNDS, _WON = 8, 7
_BETTER = 1.05
_PART_S = 0.25
_WORTH_S, _WORTH_BLOCKS = 20.0, 100
"""Less work than this is done before trying has paid: each way that is tried costs a block, and may be slow."""
_MOST_TILES, _MOST_S = 128, 0.2
"""What a CPU holds at a time, over all threads, takes memory; until it is done nothing is reported, or stopped. Networks
that take long gain nothing from more."""


@dataclass(frozen=True)
class Step:
    """What to score next.

    Attributes
    ----------
    choice : DeviceChoice
        How.
    blocks : int
        So many blocks.
    against : DeviceChoice or None
        Score them this way too, and tell `Tuner.compared` whether the same came out.
    """

    choice: DeviceChoice
    blocks: int
    against: DeviceChoice | None = None


class Tuner:
    """Decides how the next blocks of a map are scored, from how long those before took.

    Each direction, larger batches, smaller ones, fewer threads that compute with more of torch's each, is followed for as
    long as it is faster by 5%, in medians of parts that are scored the old and the new way in turns, and in nearly every turn.

    Parameters
    ----------
    choice : DeviceChoice
        The default.
    worth_s, worth_blocks : float
        Try only if the work that is left will take so many seconds, and is so many blocks.

    Attributes
    ----------
    best : DeviceChoice
        The fastest so far.
    """

    def __init__(self, choice: DeviceChoice, worth_s: float = _WORTH_S, worth_blocks: float = _WORTH_BLOCKS) -> None:
        self.best, self._worth_s, self._worth_blocks = choice, worth_s, worth_blocks
        cpu = choice.device.type == "cpu"
        self._directions: list[Direction] = (
            [partial(_tiles, 4), partial(_tiles, 2), partial(_tiles, 0.5), _threads] if cpu else []
        )
        self._trial: DeviceChoice | None = None
        self._alike = False
        self._rate = 0.0
        self._times: dict[DeviceChoice, list[float]] = {}
        self._tried = {choice}
        self._next_trial()

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be tried."""
        return self._trial is None

    @property
    def note(self) -> str:
        """What was found, for people."""
        return f"Fastest here: {self.best.pace}"

    def step(self, left: int) -> Step:
        """Return what to score next of so many blocks that are left."""
        if self._trial is not None and left < self._worth_blocks:
            return Step(self.best, left)
        if self._trial is not None and not self._rate:
            return self._part(self.best, left)
        while self._trial is not None and self._trial.batch > self.best.batch and _held(self._trial) > _MOST_S * self._rate:
            self._turn()
        if self._trial is None or left < self._worth_s * self._rate / BLOCK_TILES:
            return Step(self.best, left)
        if not self._alike:
            return Step(self.best, 1, against=self._trial)
        old, new = (len(self._times.get(choice, ())) for choice in (self.best, self._trial))
        return self._part(self.best if old <= new else self._trial, left)

    def _part(self, choice: DeviceChoice, left: int) -> Step:
        """Enough tiles that every thread has some batches, and enough time to be measured."""
        held = max(_held(each) for each in (self.best, self._trial) if each is not None)
        return Step(choice, min(left, math.ceil(max(4 * held, _PART_S * self._rate) / BLOCK_TILES)))

    def compared(self, *, same: bool) -> None:
        """Take whether both ways of a step gave the same bytes; otherwise the new one is out."""
        self._alike = same
        if not same:
            self._turn()

    def took(self, step: Step, tiles: int, seconds: float) -> None:
        """Take how long a step took, of so many tiles."""
        rate, first = tiles / seconds, not self._rate
        self._rate = rate
        if first or self._trial is None or step.against is not None:
            return  # the first part also loads and allocates
        self._times.setdefault(step.choice, []).append(1 / rate)
        if all(len(self._times.get(choice, ())) >= _ROUNDS for choice in (self.best, self._trial)):
            old, new = (self._times.pop(choice)[:_ROUNDS] for choice in (self.best, self._trial))
            won = sum(b < a for a, b in zip(old, new, strict=True))
            if won >= _WON and statistics.median(old) > _BETTER * statistics.median(new):
                self.best = self._trial
                self._next_trial()
            else:
                self._turn()

    def _turn(self) -> None:
        """Go another way than that of the trial, which was not better."""
        self._directions.pop(0)
        self._next_trial()

    def _next_trial(self) -> None:
        self._times.clear()
        self._alike, self._trial = False, None
        while self._directions and self._trial is None:
            trial = self._directions[0](self.best)
            if trial is None or trial in self._tried:
                self._directions.pop(0)
            else:
                self._tried.add(trial)
                self._trial = trial


def _held(choice: DeviceChoice) -> int:
    return choice.batch * choice.worker_threads


def _tiles(times: float, choice: DeviceChoice) -> DeviceChoice | None:
    other = replace(choice, batch=int(times * choice.batch))
    return other if 1 <= other.batch <= BLOCK_TILES and _held(other) <= _MOST_TILES else None


def _threads(choice: DeviceChoice) -> DeviceChoice | None:
    return replace(choice, worker_threads=choice.worker_threads // 2) if choice.worker_threads > 1 else None


_last: tuple[Detector, DeviceChoice, Tuner] | None = None


def tuner_of(detector: Detector, choice: DeviceChoice) -> Tuner:
    """Return the tuner of a detector; the last one is kept: slide after slide is mapped with the same detector.

    One that is compiled would be compiled anew for every other setting: it keeps the default.
    """
    global _last
    if _last is None or _last[0] is not detector or _last[1] != choice:
        _last = (detector, choice, Tuner(choice, math.inf if is_compiled(detector) else _WORTH_S))
    return _last[2]
