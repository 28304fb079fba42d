"""Find the fastest batch size and number of worker threads while a map is scored.

The best setting depends on network and machine: with batches of twice the size an autoencoder of small images gains a half,
a network with large activations loses a quarter. Tiles that are scored during the search are kept. A setting is only used if
it scores a block of tiles to the same bytes as the default, so a map does not depend on the search.
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

_ROUNDS, _WON = 8, 7
_BETTER = 1.05
_PART_S = 0.25
_WORTH_S, _WORTH_BLOCKS = 20.0, 100
"""With less work than this, a search costs more than it gains: each trial takes a block, and may be slow."""
_MOST_TILES, _MOST_S = 128, 0.2
"""Limits of a batch, over all threads: it takes memory, and progress and cancelling wait until it is done. Slow networks gain
nothing from larger ones."""


@dataclass(frozen=True)
class Step:
    """The next blocks to score, and how."""

    choice: DeviceChoice
    blocks: int
    against: DeviceChoice | None = None
    """Score the same blocks with this too, and report to `Tuner.compared` whether the bytes agree."""


class Tuner:
    """Chooses the setting for the next blocks of a map from the times of the previous ones.

    Each direction (larger batches, smaller batches, fewer worker threads with more torch threads each) is followed as long as the
    new setting is faster by 5% in the median, and faster in nearly every pair of alternating trials. It searches only if the
    remaining work takes at least ``worth_s`` seconds and has at least ``worth_blocks`` blocks. `best` is the fastest so far.
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
        """Whether the search is over."""
        return self._trial is None

    @property
    def note(self) -> str:
        """The result of the search, for people."""
        return f"Fastest here: {self.best.pace}"

    def step(self, left: int) -> Step:
        """Return the next step when ``left`` blocks remain."""
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
        """Return a step of enough tiles to give every thread some batches, and to take long enough to be timed."""
        held = max(_held(each) for each in (self.best, self._trial) if each is not None)
        return Step(choice, min(left, math.ceil(max(4 * held, _PART_S * self._rate) / BLOCK_TILES)))

    def compared(self, *, same: bool) -> None:
        """Report whether both settings of a step gave the same bytes; if not, the new setting is dropped."""
        self._alike = same
        if not same:
            self._turn()

    def took(self, step: Step, tiles: int, seconds: float) -> None:
        """Report how long a step with this number of tiles took."""
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
        """Drop the direction of the current trial and begin the next."""
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


def is_tunable(detector: Detector) -> bool:
    """Return whether other batch sizes than the default may be tried; a compiled detector would be compiled again for each."""
    return detector.scores_any_batch_alike and not is_compiled(detector)


_last: tuple[Detector, DeviceChoice, Tuner] | None = None


def tuner_of(detector: Detector, choice: DeviceChoice) -> Tuner:
    """Return the tuner of a detector; the last one is cached, because many slides are mapped with one detector."""
    global _last
    if _last is None or _last[0] is not detector or _last[1] != choice:
        _last = (detector, choice, Tuner(choice, _WORTH_S if is_tunable(detector) else math.inf))
    return _last[2]
