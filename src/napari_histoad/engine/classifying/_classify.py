"""Trains tile classifiers and predicts with them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.svm import SVC
from torch import nn

from napari_histoad.classifiers import Classifier, ClassifierSettings, class_weights
from napari_histoad.engine._batch import batches_of, score_stream
from napari_histoad.engine._device import choose_device
from napari_histoad.engine._options import check_options
from napari_histoad.errors import TooFewTilesError, TrainingError
from napari_histoad.jobs import Progress
from napari_histoad.networks.augment import affine_jitter
from napari_histoad.networks.classifier import KernelHead, TextureBody
from napari_histoad.networks.threads import map_in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_histoad.detectors import Detector
    from napari_histoad.engine._device import DeviceChoice
    from napari_histoad.engine.classifying._labelled import LabelledTiles
    from napari_histoad.jobs import Job
    from napari_histoad.networks.classifier import TileNetwork

_VALIDATION_FOLDS = 5
_FROZEN_RATE = 1e-3
_BATCH = 32
_ERROR_CELLS = 32
_TEMPERATURES = np.exp(np.linspace(np.log(0.25), np.log(8), 61))
_PIXEL_CHANNELS = 3
_TINT, _BRIGHTNESS = 0.2, 0.2
_MAX_FITTED = 6000
"""Maximum number of windows to fit a support vector machine to: its kernel matrix has one number per pair."""
_SOFTNESS = 30.0
"""Regularisation parameter C of the support vector machines."""


class _Split(NamedTuple):
    trained: NDArray[np.int64]
    validated: NDArray[np.int64]


def grouped_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (kept, held out) rows of each fold; groups are never split, and classes are spread evenly over the folds.

    A fold that holds all tiles of a class is left out, as the class could not be learnt without it. Raises `TooFewTilesError` if
    a class has fewer than two groups, or no fold leaves tiles of all classes to train on.
    """
    per_class = [len(np.unique(groups[labels == k])) for k in np.unique(labels)]
    usable = []
    if min(per_class) >= 2:
        splitter = StratifiedGroupKFold(min(folds, min(per_class)), shuffle=True, random_state=seed)
        parts = splitter.split(labels, labels, groups)
        usable = [(kept, held_out) for kept, held_out in parts if len(np.unique(labels[kept])) == len(per_class)]
    if not usable:
        msg = "all tiles of one class come from one group, so none can be held out for testing"
        raise TooFewTilesError(msg, "outline that class in a second place, or on another slide")
    yield from usable


class Prepared(NamedTuple):
    """Inputs of a classifier's networks for N tiles, computed once."""

    stack: Tensor | None  # (N, C, S, S) float16; None if all networks use fixed statistics only
    measured: Tensor | None  # (N, D, h, w) float32, the fixed statistics; None if no network uses them
    error_scale: Tensor  # (2,), scale of the error maps in the stack, see `Classifier`


def prepare_job(classifier: Classifier, images: NDArray[np.uint8], device: str = "auto") -> Job[Prepared]:
    """Compute the networks' inputs for tiles (N, H, W, 3) uint8, once for all folds and networks.

    These tiles also define the scale of the error map.
    """
    choice = choose_device(device)
    classifier.to(choice.device)
    if "error" in classifier.settings.inputs:
        assert classifier.detector is not None
        yield Progress("Mapping errors", 0, len(images))
        errors: list[NDArray[np.float32]] = []
        for found in score_stream(classifier.detector, choice, batches_of(images, choice.batch), cells=_ERROR_CELLS):
            assert found.error_cells is not None
            errors.append(found.error_cells)
            yield Progress("Mapping errors", int(found.index[-1]) + 1, len(images))
        classifier.prepare(torch.from_numpy(np.concatenate(errors)))
    body = next((member.body for member in classifier.members if isinstance(member.body, TextureBody)), None)
    stacked = not all(member.fine for member in classifier.members)

    def prepare(part: slice) -> tuple[slice, Tensor | None, Tensor | None]:
        with torch.inference_mode():
            stack = classifier.stack(torch.from_numpy(images[part]).to(choice.device))
            return part, stack.half().cpu() if stacked else None, None if body is None else body.measure(stack).cpu()

    yield Progress("Preparing tiles", 0, len(images))
    stacks, measured = [], []
    for part, stack, values in map_in_threads(prepare, _parts(images, choice), choice.device):
        if stack is not None:
            stacks.append(stack)
        if values is not None:
            measured.append(values)
        yield Progress("Preparing tiles", part.stop, len(images))
    whole = torch.cat(stacks) if stacks else None
    return Prepared(whole, torch.cat(measured) if measured else None, classifier.error_scale)


def fit_classifier_job(
    settings: ClassifierSettings,
    data: LabelledTiles,
    *,
    detector: Detector | None = None,
    weights: dict[str, Path] | None = None,
    rows: NDArray[np.int64] | None = None,
    prepared: Prepared | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Job[Classifier]:
    """Train a classifier. A fifth of the groups is used for early stopping, and to set each network's temperature and weight.

    ``detector`` provides reconstruction and error map, if these are among the inputs; ``weights`` are files of pretrained weights
    by name of the network. With ``rows``, only these tiles are used; ``prepared`` is the result of `prepare_job` for all tiles,
    to save time. Raises `TooFewTilesError` if a class has fewer than two groups, and the errors of `Classifier`.
    """
    check_options(seed=seed)
    choice = choose_device(device)
    torch.manual_seed(seed)
    classifier = Classifier(settings, detector, weights)
    rows = np.arange(len(data.labels)) if rows is None else rows
    where = rows
    if prepared is None:
        prepared, where = (yield from prepare_job(classifier, data.tiles.images[rows], device)), np.arange(len(rows))
    classifier.keep(error_scale=prepared.error_scale)
    labels = data.labels[rows]
    kept, validated = next(grouped_folds(labels, data.tiles.groups[rows], _VALIDATION_FOLDS, seed))
    classifier.to(choice.device)
    tiles = _Tiles(prepared.stack, torch.from_numpy(labels), where)
    losses = []
    split = _Split(kept, validated)
    for k, member in enumerate(classifier.members):
        if isinstance(member.body, TextureBody):
            assert prepared.measured is not None
            yield Progress("Fitting texture", k, len(classifier.members), "networks")
            temperature, loss = _fit_texture(member, prepared.measured[where], tiles.labels, split)
            member.to(choice.device)
        else:
            yield from _descend_job(classifier, member, k, tiles, split, choice, seed)
            temperature, loss = _temperature(_logits(member, tiles, validated, choice), tiles.labels[validated])
        classifier.temperatures[k] = temperature
        losses.append(loss)
    if settings.weighting == "validation":
        worth = 1 / torch.tensor(losses).clamp_min(1e-3)
        classifier.keep(shares=worth / worth.sum())
    classifier.trained_on = data.tiles.sources
    classifier.eval()
    return classifier


class _Tiles(NamedTuple):
    """Stacked inputs, labels, and the row of the stack of each label."""

    stack: Tensor | None
    labels: Tensor
    rows: NDArray[np.int64]

    def inputs(self, picked: NDArray[np.int64], device: torch.device) -> Tensor:
        assert self.stack is not None
        return self.stack[self.rows[picked]].to(device).float()


def _descend_job(
    classifier: Classifier, member: TileNetwork, number: int, tiles: _Tiles, split: _Split, choice: DeviceChoice, seed: int
) -> Job[None]:
    settings = classifier.settings
    fabric = choice.fabric()
    importance = class_weights(tiles.labels[split.trained].tolist(), len(settings.classes)).to(choice.device)
    frozen = settings.frozen_epochs if settings.pretrained else 0
    optimizer = _optimizer(member, settings, frozen=bool(frozen))
    best, best_state, stale = np.inf, copy.deepcopy(member.state_dict()), 0
    stage = f"Training {settings.networks[number // settings.seeds]}"
    yield Progress(stage, 0, settings.epochs, "epochs")
    for epoch in range(settings.epochs):
        if frozen and epoch == frozen:
            optimizer, stale = _optimizer(member, settings, frozen=False), 0
        member.train()
        if epoch < frozen:
            member.body.eval()  # frozen weights include the batch statistics
        rng = np.random.default_rng([seed, number, epoch])
        order = rng.permutation(split.trained)
        for step, start in enumerate(range(0, len(order), settings.batch)):
            picked = order[start : start + settings.batch]
            if len(picked) < 2:  # one tile has no batch statistics
                continue
            with torch.random.fork_rng(devices=[]), fabric.autocast():
                torch.manual_seed((seed * 1009 + number) * 1_000_003 + epoch * 10_007 + step)
                inputs = tiles.inputs(picked, choice.device)
                if settings.augment:
                    inputs = _augmented(inputs, settings)
                loss = F.cross_entropy(member(inputs), tiles.labels[picked].to(choice.device), weight=importance)
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            optimizer.step()
        current = float(F.cross_entropy(_logits(member, tiles, split.validated, choice), tiles.labels[split.validated]))
        if not np.isfinite(current):
            what = (
                f"training of {settings.networks[number // settings.seeds]} diverged in epoch {epoch + 1}: its loss is not finite"
            )
            raise TrainingError(what, "train with a lower learning rate (learning_rate in the settings); nothing was saved")
        stale = 0 if current < best else stale + 1
        if current < best:
            best, best_state = current, copy.deepcopy(member.state_dict())
        yield Progress(stage, epoch + 1, settings.epochs, "epochs", {"held-out loss": current})
        if stale >= settings.patience and epoch + 1 > frozen:
            break
    member.load_state_dict(best_state)
    member.eval()


def _optimizer(member: TileNetwork, settings: ClassifierSettings, *, frozen: bool) -> torch.optim.Optimizer:
    member.body.requires_grad_(not frozen)
    parameters = [p for p in member.parameters() if p.requires_grad]
    rate = _FROZEN_RATE if frozen else settings.learning_rate
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=settings.weight_decay, fused=True)


def _augmented(inputs: Tensor, settings: ClassifierSettings) -> Tensor:
    inputs = affine_jitter(inputs)
    first = 0
    for name in settings.inputs:
        if name == "image":  # brightness and tint, on normalised pixels
            n = len(inputs)
            gain = 1 + _BRIGHTNESS * (2 * torch.rand(n, 1, 1, 1, device=inputs.device) - 1)
            tint = _TINT * (2 * torch.rand(n, _PIXEL_CHANNELS, 1, 1, device=inputs.device) - 1)
            image = inputs[:, first : first + _PIXEL_CHANNELS] * gain + tint
            inputs = torch.cat([inputs[:, :first], image, inputs[:, first + _PIXEL_CHANNELS :]], 1)
        first += 3 if name != "error" else 1
    return inputs


def _fit_texture(member: TileNetwork, measured: Tensor, labels: Tensor, split: _Split) -> tuple[float, float]:
    """Fit support vector machines; return temperature and loss on held-out tiles."""
    member.to(torch.device("cpu"))
    body, head = member.body, member.head
    assert isinstance(body, TextureBody)
    assert isinstance(head, KernelHead)
    _fit_support(body, head, measured[split.trained], labels[split.trained])
    with torch.inference_mode():
        found = _temperature(head(body.scaled(measured[split.validated])), labels[split.validated])
    _fit_support(body, head, measured, labels)  # there is no early stopping, so the final fit uses all tiles
    return found


def _fit_support(body: TextureBody, head: KernelHead, measured: Tensor, labels: Tensor) -> None:
    """Fit one support vector machine per class against the rest, to standardised windows of tiles, at most 6,000 of them."""
    with torch.no_grad():
        body.scale.reset_running_stats()
        body.scale.train()
        body.scale(measured)
        body.scale.eval()
        x = body.scaled(measured).movedim(1, 3).flatten(0, 2)
        truth = labels.repeat_interleave(len(x) // len(labels)).numpy()
        if len(x) > _MAX_FITTED:
            chosen = np.random.default_rng(0).permutation(len(x))[:_MAX_FITTED]
            x, truth = x[torch.from_numpy(chosen)], truth[chosen]
        kernel = head.kernel(x, x).double().numpy()
    weights = np.zeros((len(x), head.classes), np.float32)
    bias = np.zeros(head.classes, np.float32)
    for k in range(head.classes):
        machine = SVC(C=_SOFTNESS, kernel="precomputed", class_weight="balanced").fit(kernel, truth == k)
        weights[machine.support_, k], bias[k] = machine.dual_coef_[0], machine.intercept_[0]
    used = np.flatnonzero(weights.any(axis=1))
    head.adopt(x[torch.from_numpy(used)], torch.from_numpy(weights[used]), torch.from_numpy(bias))


def _logits(network: nn.Module, tiles: _Tiles, rows: NDArray[np.int64], choice: DeviceChoice) -> Tensor:
    network.eval()
    with torch.inference_mode():
        parts = [network(tiles.inputs(rows[i : i + _BATCH], choice.device)).float().cpu() for i in range(0, len(rows), _BATCH)]
    return torch.cat(parts)


def _temperature(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the temperature with the smallest cross-entropy, and that cross-entropy (Guo et al. 2017)."""
    losses = [float(F.cross_entropy(logits / t, labels)) for t in _TEMPERATURES]
    k = int(np.argmin(losses))
    return float(_TEMPERATURES[k]), losses[k]


def predict_prepared(
    classifier: Classifier, prepared: Prepared, rows: NDArray[np.int64], device: str = "auto"
) -> NDArray[np.float32]:
    """Return class probabilities (M, K) float32 of prepared tiles."""
    choice = choose_device(device)
    labels = torch.zeros(len(rows), dtype=torch.int64)
    logits = []
    for member in classifier.members:
        if isinstance(member.body, TextureBody):
            assert prepared.measured is not None
            member.to(torch.device("cpu"))
            with torch.inference_mode():
                logits.append(member.head(member.body.scaled(prepared.measured[rows])))
            member.to(choice.device)
        else:
            logits.append(_logits(member, _Tiles(prepared.stack, labels, rows), np.arange(len(rows)), choice))
    found: NDArray[np.float32] = classifier.joined(logits).numpy()
    return found


def predict_job(
    classifier: Classifier, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], device: str = "auto"
) -> Job[NDArray[np.float32]]:
    """Return class probabilities (N, K) float32 of tiles (N, H, W, 3) uint8."""
    choice = choose_device(device)
    classifier.to(choice.device)
    classifier.eval()

    def classify(part: slice) -> tuple[slice, NDArray[np.float32]]:
        with torch.inference_mode():
            return part, classifier.probabilities(torch.from_numpy(images[part]).to(choice.device)).cpu().numpy()

    yield Progress("Classifying", 0, len(images))
    parts = []
    for part, probabilities in map_in_threads(classify, _parts(images, choice), choice.device):
        parts.append(probabilities)
        yield Progress("Classifying", part.stop, len(images))
    return np.concatenate(parts) if parts else np.empty((0, len(classifier.settings.classes)), np.float32)


def _parts(images: Sequence[object] | NDArray[np.uint8], choice: DeviceChoice) -> list[slice]:
    return [slice(i, min(i + choice.batch, len(images))) for i in range(0, len(images), choice.batch)]
