"""What training will cost, measured on one batch before it starts."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from napari_histoad.detectors import FeatureDetector
from napari_histoad.engine.training._descend import batch_size, diverging
from napari_histoad.jobs import format_seconds

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice

__all__ = ["TrainingEstimate", "estimate_training"]

_BATCH = 16
_COPIES = 4  # weights, gradients, and two moments of Adam


@dataclass(frozen=True)
class TrainingEstimate:
    """What training takes at most; it may stop earlier by itself.

    Attributes
    ----------
    seconds : float
        On this machine, as busy as it is now.
    memory_bytes : int
        Beyond what the program itself takes: tiles, weights, gradients, activations of one batch, kept features.
    bank_bytes : int
        Of these, the normal tiles' features that are kept for the search of the nearest; 0 where there is none.
    """

    seconds: float
    memory_bytes: int
    bank_bytes: int = 0

    def __str__(self) -> str:
        bank = f", {_size(self.bank_bytes)} of it the bank of normal tiles" if self.bank_bytes else ""
        return f"Takes {format_seconds(max(1.0, self.seconds))} and {_size(self.memory_bytes)} of memory at most{bank}"


def estimate_training(detector: Detector, images: Tensor, choice: DeviceChoice, passes: float = 1.0) -> TrainingEstimate:
    """Try one batch on a copy of a detector and reckon what training on all tiles takes.

    Parameters
    ----------
    detector : Detector
        Prepared and on its device; it does not change.
    images : (N, H, W, 3) uint8 tensor
        The tiles.
    choice : DeviceChoice
    passes : float
        How many times a network takes the detector's steps: refinement trains on.
    """
    with torch.random.fork_rng(devices=[]):
        if isinstance(detector, FeatureDetector) and not detector.steps:
            return _of_features(detector, images, choice)
        if not detector.steps:
            return TrainingEstimate(0.0, images.nbytes)
        return _of_descent(copy.deepcopy(detector), images, choice, passes)


def _of_features(detector: FeatureDetector, images: Tensor, choice: DeviceChoice) -> TrainingEstimate:
    batch = images[:_BATCH].to(choice.device)
    with torch.inference_mode(), choice.autocast(detector):
        detector.features(batch)  # the first call pays for what later ones do not
        started = time.perf_counter()
        codes = detector.features(batch)
        numbers = codes.shape[1] * 4
    seconds = (time.perf_counter() - started) / len(batch) * len(images)
    bank = detector.model.fitted_bytes(len(images))
    return TrainingEstimate(seconds, images.nbytes + len(images) * numbers + bank, bank)


def _of_descent(detector: Detector, images: Tensor, choice: DeviceChoice, passes: float) -> TrainingEstimate:
    assert detector.network is not None
    batch = images[: batch_size(detector, len(images))].to(choice.device)
    optimizers = detector.optimizers()
    fabric = choice.fabric()
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    detector.network.train()
    with fabric.autocast(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        detector.learn(batch, optimizers, fabric.backward)
    started = time.perf_counter()
    with fabric.autocast(), diverging(detector.network, 2):
        losses = detector.learn(batch, optimizers, fabric.backward)
    float(losses["loss"].detach())  # waits for a GPU
    seconds = (time.perf_counter() - started) * detector.steps * passes
    weights = sum(p.nbytes for p in detector.network.parameters())
    return TrainingEstimate(seconds, images.nbytes + _COPIES * weights + sum(kept.values()))


def _size(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{max(1, round(n / 1e6))} MB"
