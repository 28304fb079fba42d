"""Gradient descent with early stopping, checkpoints and progress reports."""

from __future__ import annotations

import hashlib
import io
import math
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from napari_histoad.engine.training._multi_device import average_gradients, share_buffers, together_job
from napari_histoad.errors import SettingsError, TrainingError
from napari_histoad.jobs import Progress
from napari_histoad.networks.augment import stain_jitter
from napari_histoad.system.atomic import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.jobs import Job
    from napari_histoad.tiles import TileSet

_BATCH = 16
_VALIDATION = 0.15
_MIN_GROUPS = 16
_CHECKS, _PATIENCE, _MIN_GAIN = 20, 5, 0.005
_PREVIEW_SECONDS = 2.0


def descend_job(
    detector: Detector,
    tiles: TileSet,
    choice: DeviceChoice,
    rng: np.random.Generator,
    seed: int,
    checkpoint: Path | None,
    *,
    counts: NDArray[np.float32] | None = None,
    steps: int | None = None,
) -> Job[None]:
    """Train a detector's network and keep the weights with the smallest loss on validation tiles.

    Progress is reported after every step. At each of 20 validations a checkpoint is written; a later call with the same detector,
    tiles and seed continues from it. ``counts`` (N,) are the weights of the tiles, see `Detector.losses`; only tiles of weight 1
    are used for validation. Raises `TrainingError` if a loss or a weight is not finite.
    """
    network = detector.network
    assert network is not None
    trained, validated = _split(tiles, rng)
    if counts is not None:
        trained = np.concatenate([trained, validated[counts[validated] != 1]])
        validated = validated[counts[validated] == 1]
    total = steps or detector.steps
    key = _data_key(detector, tiles, seed, counts, total)
    plan = _Plan(trained, validated[:128], counts, total, batch_size(detector, len(trained)), seed, checkpoint, key)
    if choice.count == 1:
        fabric = choice.fabric()
        yield from _steps_job(fabric, choice, detector, tiles.images, plan)
        return
    if plan.batch < 2 * choice.count:
        what = f"batches of {plan.batch} tiles are too small for {choice.count} devices"
        raise SettingsError(what, f"train on {max(1, plan.batch // 2)} at most, or set batch to {2 * choice.count} or more")
    detector.to(torch.device("cpu"))
    found = yield from together_job(_steps_job, choice, detector, tiles.images, plan)
    detector.to(choice.device)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in found.items()})
    network.eval()


@dataclass(frozen=True)
class _Plan:
    """Arguments of the training loop; rows index the tiles."""

    trained: NDArray[np.int64]
    validated: NDArray[np.int64]
    counts: NDArray[np.float32] | None
    total: int
    batch: int
    seed: int
    checkpoint: Path | None
    key: str


def _steps_job(
    fabric: Fabric, choice: DeviceChoice, detector: Detector, tiles: NDArray[np.uint8], plan: _Plan
) -> Job[dict[str, NDArray[Any]]]:
    """Train in this process, alone or with others that each take a part of every batch; return the best weights."""
    network = detector.network
    assert network is not None
    detector.to(choice.device)
    images, alone, total = torch.from_numpy(tiles), fabric.world_size == 1, plan.total

    def backward(loss: torch.Tensor) -> None:
        fabric.backward(loss)
        if not alone:
            average_gradients(fabric, network)

    optimizers = detector.optimizers()
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=optimizer.param_groups[0]["lr"],
            total_steps=total + 1,
            pct_start=min(0.1, 50 / total),
            cycle_momentum=False,
        )
        for optimizer in optimizers
    ]
    stateful: list[Any] = [*optimizers, *schedules]
    every = max(1, total // _CHECKS)
    best, best_state, stale, first = math.inf, _copy(network), 0, 0
    saved = _load_checkpoint(plan.checkpoint, plan.key)
    if saved is not None:
        network.load_state_dict(saved["network"])
        for part, state in zip(stateful, saved["optimizers"], strict=True):
            part.load_state_dict(state)
        best, best_state, stale, first = saved["best"], saved["best_state"], saved["stale"], saved["step"]
        if stale >= _PATIENCE:
            first = total
    previewed = 0.0
    metrics: dict[str, float] = {}
    yield Progress("Training", first, total, "steps")
    for step in range(first, total):
        network.train()
        # Random numbers depend on seed, step and rank only, so that a resumed run equals an uninterrupted one.
        picked = np.random.default_rng([plan.seed, step]).choice(plan.trained, plan.batch, replace=False)
        picked = picked[fabric.global_rank :: fabric.world_size]
        with torch.random.fork_rng(devices=[]), fabric.autocast():
            torch.manual_seed((plan.seed + 7919 * fabric.global_rank) * 1_000_003 + step)
            seen = _jittered(images[picked].to(choice.device), detector.settings.stain_jitter)
            weights = None if plan.counts is None else torch.from_numpy(plan.counts[picked]).to(choice.device)
            with diverging(network, step + 1):
                losses = detector.learn(seen, optimizers, backward, weights)
        if not alone:
            share_buffers(network)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Detected call of `lr_scheduler.step", UserWarning
            )  # the optimizer of a critic may start later
            for schedule in schedules:
                schedule.step()
        metrics |= {name: float(value.detach()) for name, value in losses.items()}
        _check_finite(metrics.values(), step + 1)
        preview = None
        now = time.monotonic()
        if now - previewed > _PREVIEW_SECONDS or step + 1 == total:
            previewed, preview = now, _preview(detector, images[plan.validated[:4]], choice)
        yield Progress("Training", step + 1, total, "steps", dict(metrics), preview)
        if (step + 1) % every and step + 1 < total:
            continue
        # The loss of one process decides: those of others may differ in the last digit.
        with diverging(network, step + 1):
            current = fabric.broadcast(_held_out_loss(detector, images, plan, choice))
        metrics["held-out loss"] = current
        _check_finite([current], step + 1)
        _check_finite((float(value.sum()) for value in _floats(network)), step + 1)
        if detector.fully_grown:
            stale = 0 if current < best * (1 - _MIN_GAIN) else stale + 1
            if current < best:
                best, best_state = current, _copy(network)
        if fabric.global_rank == 0:
            state = {"network": network.state_dict(), "optimizers": [part.state_dict() for part in stateful], "step": step + 1}
            state |= {"key": plan.key, "best": best, "best_state": best_state, "stale": stale}
            _save_checkpoint(plan.checkpoint, state)
        if stale >= _PATIENCE:
            break
    network.load_state_dict(best_state)
    network.eval()
    yield Progress("Training", total, total, "steps", {**metrics, "best held-out loss": best})
    return {name: value.cpu().numpy() for name, value in best_state.items()}


def _check_finite(values: Iterable[float], step: int) -> None:
    """Raise a TrainingError if a value is not finite."""
    if not all(map(math.isfinite, values)):
        what = f"training diverged in step {step}: a loss or a weight is not finite; nothing was saved"
        raise TrainingError(what, "train with a lower learning rate (learning_rate in the settings), or larger batches")


@contextmanager
def diverging(network: torch.nn.Module, step: int) -> Iterator[None]:
    """Turn errors that torch raises because of weights that are not finite into a TrainingError."""
    try:
        yield
    except (IndexError, RuntimeError, ValueError):
        _check_finite((float(value.sum()) for value in _floats(network)), step)
        raise


def _floats(network: torch.nn.Module) -> Iterator[torch.Tensor]:
    return (value for value in network.state_dict().values() if value.is_floating_point())


def _jittered(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Return images (B, H, W, 3) uint8 with randomly varied stains."""
    if not strength:
        return images
    pixels = stain_jitter(images.movedim(3, 1).float() / 255, strength)
    return (pixels.movedim(1, 3) * 255).round().byte()


def batch_size(detector: Detector, tiles: int) -> int:
    """Return the number of tiles per step, given that of all tiles."""
    return min(getattr(detector.settings, "batch", _BATCH), tiles)


def _split(tiles: TileSet, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows of (training tiles, validation tiles).

    With fewer than 16 groups, groups are split: if one held the only tissue of its kind, such as fat, and were used for
    validation, training would stop at the first step. Calibration uses other tiles.
    """
    if len(np.unique(tiles.groups)) >= _MIN_GROUPS:
        return tiles.split(_VALIDATION, rng)
    order = rng.permutation(len(tiles))
    validated, trained = np.split(order, [max(1, int(_VALIDATION * len(tiles)))])
    return trained, validated


def _held_out_loss(detector: Detector, images: torch.Tensor, plan: _Plan, choice: DeviceChoice) -> float:
    assert detector.network is not None
    detector.network.eval()
    values, rows = [], plan.validated
    with torch.inference_mode(), choice.autocast(detector), torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)  # losses that use random views of a tile use the same ones at each validation
        for i in range(0, len(rows), 16):
            part = images[rows[i : i + 16]].to(choice.device)
            values.append(float(detector.losses(part)["loss"]) * len(part))
    return sum(values) / len(rows)


def _preview(detector: Detector, images: torch.Tensor, choice: DeviceChoice) -> NDArray[np.uint8] | None:
    """Return a picture (H, W, 3) uint8 of tiles above their reconstructions, or None if there are none."""
    assert detector.network is not None
    detector.network.eval()
    with torch.inference_mode(), choice.autocast(detector):
        reconstruction = detector.reconstruct(images.to(choice.device))
    if reconstruction is None:
        return None
    if reconstruction.shape[2:] != images.shape[1:3]:
        reconstruction = F.interpolate(reconstruction.float(), images.shape[1:3])
    below = (reconstruction.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(list(part), axis=1) for part in (images.numpy(), below)]
    return np.ascontiguousarray(np.concatenate(rows, axis=0)[::2, ::2])


def _copy(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _data_key(detector: Detector, tiles: TileSet, seed: int, counts: NDArray[np.float32] | None, steps: int) -> str:
    digest = hashlib.sha256(f"2 {detector.name} {detector.settings.model_dump_json()} {seed} {steps}".encode())
    digest.update(tiles.images[:: max(1, len(tiles) // 16)].tobytes())
    digest.update(b"" if counts is None else counts.tobytes())
    return digest.hexdigest()


def _load_checkpoint(path: Path | None, key: str) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return saved if saved.get("key") == key else None
    except Exception:  # noqa: BLE001 - a damaged file may raise anything
        return None  # damaged: start from the beginning


def _save_checkpoint(path: Path | None, state: dict[str, Any]) -> None:
    if path is None:
        return
    # In memory first: on a full disk torch's file writer raises a RuntimeError instead of an OSError. getvalue() copies, for
    # Python 3.12.1 crashes when it collects a buffer that getbuffer() has exposed.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getvalue())
