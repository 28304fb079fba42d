"""Estimates time and memory of training from one batch, before training starts."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from napari_histoad.detectors import FeatureDetector
from napari_histoad.engine.training._gradient_descent import batch_size, diverging
from napari_histoad.jobs import format_seconds

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice

_BATCH = 16
_COPIES = 4  # weights, gradients, and two moments of Adam


@dataclass(frozen=True)
class TrainingEstimate:
    """Maximum time and memory of training; it may stop early."""

    seconds: float  # on this machine at its present load
    memory_bytes: int  # tiles, weights, gradients, activations of one batch, stored features; without the program itself
    bank_bytes: int = 0  # part of it for stored features of normal tiles, if the method searches them

    def __str__(self) -> str:
        bank = f", {_size(self.bank_bytes)} of it for features of normal tiles" if self.bank_bytes else ""
        return f"Takes at most {format_seconds(max(1.0, self.seconds))} and {_size(self.memory_bytes)} of memory{bank}"


def estimate_training(detector: Detector, images: Tensor, choice: DeviceChoice, passes: float = 1.0) -> TrainingEstimate:
    """Run one batch on a copy of a prepared detector and estimate time and memory of training on all tiles (N, H, W, 3) uint8.

    ``passes`` is the number of training steps as a multiple of the detector's, see `passes_of`.
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
        detector.features(batch)  # the first call is slower
        started = time.perf_counter()
        features = detector.features(batch)
        numbers = features.shape[1] * 4
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
