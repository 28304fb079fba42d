"""A classifier of tiles: one or several networks on image, reconstruction and error map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from napari_histoad.classifiers._networks import build_network
from napari_histoad.detectors._base import load_module, module_state
from napari_histoad.errors import SettingsError
from napari_histoad.networks.classifier import MEAN, STD
from napari_histoad.networks.constants import on_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from napari_histoad.detectors import Detector, TileScores
    from napari_histoad.networks.classifier import TileNetwork

__all__ = ["CHANNELS", "Classifier", "ClassifierSettings", "Input", "class_weights", "gives_error"]

Input = Literal["image", "reconstruction", "error"]
CHANNELS: dict[Input, int] = {"image": 3, "reconstruction": 3, "error": 1}


class ClassifierSettings(BaseModel):
    """Settings of a classifier.

    Attributes
    ----------
    networks : tuple of str
        One, or an ensemble of several: `NETWORKS`, or names of timm's.
    seeds : int
        Networks of each kind.
    inputs : tuple of {"image", "reconstruction", "error"}
        What is looked at; the last two need a detector that rebuilds tiles or maps errors.
    classes : tuple of str
        Two or more.
    tile_px, mpp
        The tiles: side in pixels, µm per pixel.
    input_px : int or None
        Side to which tiles are shrunk for the networks; None leaves them.
    centre : {"all", "crop", "attention"}
        For labels that speak of the centre: cut it out, or weigh it by a learnt measure.
    centre_px : int
        With ``crop``: its side, after shrinking.
    weighting : {"mean", "validation"}
        How an ensemble's probabilities are joined; by validation, each counts by the inverse of its loss.
    pretrained : bool
        Start from timm's weights; the body is frozen for ``frozen_epochs`` first.
    augment : bool
        Turn, mirror, shift, shear, zoom and tint tiles while learning.
    dropout : float
        Of `base_cnn`.
    epochs, frozen_epochs, patience : int
        At most; with frozen body; without progress on the validation tiles before it stops.
    batch : int
    learning_rate, weight_decay : float
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    networks: tuple[str, ...] = Field(("resnet18",), min_length=1)
    seeds: int = Field(1, ge=1, le=20)
    inputs: tuple[Input, ...] = Field(("image",), min_length=1)
    classes: tuple[str, ...] = Field(("normal", "anomalous"), min_length=2)
    tile_px: int = Field(256, ge=32, le=1024)
    mpp: float = Field(0.5, ge=0.05, le=20)
    input_px: int | None = Field(None, ge=32, le=1024)
    centre: Literal["all", "crop", "attention"] = "all"
    centre_px: int = Field(32, ge=16, le=1024)
    weighting: Literal["mean", "validation"] = "mean"
    pretrained: bool = False
    augment: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(30, ge=1, le=10_000)
    frozen_epochs: int = Field(3, ge=0, le=1000)
    patience: int = Field(6, ge=1, le=1000)
    batch: int = Field(32, ge=2, le=4096)
    learning_rate: float = Field(3e-4, gt=0, le=1)
    weight_decay: float = Field(1e-4, ge=0, le=1)

    @field_validator("inputs", "classes")
    @classmethod
    def _once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise ValueError("each may be given once")
        return values

    @model_validator(mode="after")
    def _texture_sees_the_image(self) -> Self:
        if "texture" in self.networks and (self.inputs[0] != "image" or self.centre == "attention"):
            raise ValueError("texture looks at the image first, and has no map to weigh")
        return self

    @property
    def channels(self) -> int:
        """Channels of the stack of inputs."""
        return sum(CHANNELS[name] for name in self.inputs)

    @property
    def side_px(self) -> int:
        """Side of what the networks see."""
        side = self.input_px or self.tile_px
        return min(side, self.centre_px) if self.centre == "crop" else side

    @property
    def needs_detector(self) -> bool:
        """Whether a detector gives some of the inputs."""
        return self.inputs != ("image",)


class Classifier:
    """Gives each tile a probability per class.

    Parameters
    ----------
    settings : ClassifierSettings
    detector : Detector, optional
        Gives reconstruction and error map; kept with the classifier, and what a map of both is made with.
    weights : dict of str to Path, optional
        Files of pretrained weights by the network's name.

    Attributes
    ----------
    members : list of TileNetwork
        ``seeds`` of each kind.
    shares : (M,) tensor
        How much each counts; they sum to 1.
    temperatures : (M,) tensor
        By which each one's logits are divided, so that its probabilities are neither too sure nor too unsure (Guo et al. 2017,
        arXiv:1706.04599). Classes weigh alike in training, however rare: a rare one's probability exceeds its frequency.
    error_scale : (2,) tensor
        Mean and deviation of the error maps of training tiles: what is subtracted, and what divided by.
    trained_on : tuple[str, ...]

    Raises
    ------
    SettingsError
        If the inputs need a detector that is not given or cannot give them.
    """

    def __init__(
        self, settings: ClassifierSettings, detector: Detector | None = None, weights: dict[str, Path] | None = None
    ) -> None:
        if settings.needs_detector:
            _check_detector(settings, detector)
        self.settings, self.detector = settings, detector
        self.device = torch.device("cpu")
        self.trained_on: tuple[str, ...] = ()
        self.members: list[TileNetwork] = [
            build_network(
                name,
                settings.channels,
                len(settings.classes),
                settings.side_px,
                attention=settings.centre == "attention",
                dropout=settings.dropout,
                pretrained=settings.pretrained and weights is not None,
                weights=(weights or {}).get(name),
            )
            for name in settings.networks
            for _ in range(settings.seeds)
        ]
        self.shares = torch.full((len(self.members),), 1 / len(self.members))
        self.temperatures = torch.ones(len(self.members))
        self.error_scale = torch.tensor([0.0, 1.0])

    # -- what the networks see

    def prepare(self, errors: Tensor) -> None:
        """Take mean and deviation of error maps (N, h, w) of training tiles as the scale of that input."""
        deviation, mean = torch.std_mean(errors.float())
        self.error_scale = torch.stack([mean, deviation.clamp_min(1e-12)]).cpu()

    def stack(self, images: Tensor, scores: TileScores | None = None) -> Tensor:
        """Return the inputs as one tensor (B, C, S, S) float32.

        Parameters
        ----------
        images : (B, H, W, 3) uint8 tensor on ``self.device``
        scores : TileScores, optional
            What the detector said of them; default: it is asked.
        """
        if scores is None and self.settings.needs_detector:
            assert self.detector is not None
            scores = self.detector.score(images)
        pixels = images.movedim(3, 1).float() / 255
        parts = []
        for name in self.settings.inputs:
            if name == "image":
                parts.append(_normalised(pixels))
            elif name == "reconstruction":
                assert scores is not None
                assert scores.reconstruction is not None
                parts.append(_normalised(_resized(scores.reconstruction.float(), pixels.shape[2])))
            else:
                assert scores is not None
                assert scores.error_map is not None
                mean, deviation = on_device(self.error_scale, images.device)
                parts.append((_resized(scores.error_map.float()[:, None], pixels.shape[2]) - mean) / deviation)
        return self._framed(torch.cat(parts, 1))

    def _framed(self, stack: Tensor) -> Tensor:
        if self.settings.input_px is not None:
            stack = _resized(stack, self.settings.input_px)
        edge = (stack.shape[2] - self.settings.side_px) // 2
        return stack[:, :, edge : edge + self.settings.side_px, edge : edge + self.settings.side_px]

    # -- what they say

    def probabilities(self, images: Tensor, scores: TileScores | None = None) -> Tensor:
        """Return the probability of each class (B, K) float32 of images (B, H, W, 3) uint8; see `stack`."""
        return self.probabilities_of(self.stack(images, scores))

    def probabilities_of(self, stack: Tensor) -> Tensor:
        """Return the probability of each class (B, K) float32 of stacked inputs."""
        return self.joined([member(stack) for member in self.members])

    def joined(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the probability of each class (B, K) float32 from the logits (B, K) of each network."""
        shares, temperatures = self.shares.tolist(), self.temperatures.tolist()
        parts = [s * F.softmax(found.float() / t, dim=1) for found, s, t in zip(logits, shares, temperatures, strict=True)]
        return torch.stack(parts).sum(0)

    # -- life

    def to(self, device: torch.device) -> None:
        """Move to a device, its detector too."""
        self.device = device
        for member in self.members:
            member.to(device)
        if self.detector is not None:
            self.detector.to(device)

    def eval(self) -> None:
        """Switch dropout and batch statistics off."""
        for member in self.members:
            member.eval()

    def state(self) -> dict[str, Tensor]:
        """Return all that training found, as named tensors on the CPU."""
        state = {"shares": self.shares, "temperatures": self.temperatures, "error_scale": self.error_scale}
        for k, member in enumerate(self.members):
            state |= module_state(f"member{k}", member)
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned.

        Raises
        ------
        KeyError, ValueError, RuntimeError
            If names or shapes do not fit.
        """
        m = len(self.members)
        shares, temperatures, scale = (state[name].float() for name in ("shares", "temperatures", "error_scale"))
        if shares.shape != (m,) or temperatures.shape != (m,) or scale.shape != (2,):
            raise ValueError(f"state of {tuple(shares.shape)} networks given, {m} due")
        self.shares, self.temperatures, self.error_scale = shares, temperatures, scale
        for k, member in enumerate(self.members):
            load_module(state, f"member{k}", member)


def gives_error(detector: Detector) -> bool:
    """Return whether a detector maps errors inside a tile."""
    return _probe(detector).error_map is not None


def _probe(detector: Detector) -> TileScores:
    side = detector.settings.tile_px
    with torch.inference_mode():
        return detector.score(torch.full((1, side, side, 3), 200, dtype=torch.uint8, device=detector.device))


def _check_detector(settings: ClassifierSettings, detector: Detector | None) -> None:
    wanted = " and ".join(name for name in settings.inputs if name != "image")
    if detector is None:
        raise SettingsError(f"the classifier looks at {wanted}, which a detector gives", "name a trained detector with --model")
    side = detector.settings.tile_px
    if side != settings.tile_px:
        msg = f"the detector takes tiles of {side} px, the classifier of {settings.tile_px}"
        raise SettingsError(msg, f"use --tile-px {side}")
    scores = _probe(detector)
    given = {"reconstruction": scores.reconstruction, "error": scores.error_map}
    for name in settings.inputs:
        if name != "image" and given[name] is None:
            raise SettingsError(f"the detector {detector.name} gives no {name}", "train one that does, such as vqvae")


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (MEAN, STD))
    return (pixels - mean) / std


def _resized(planes: Tensor, side: int) -> Tensor:
    if planes.shape[2] == side:
        return planes
    return F.interpolate(planes, (side, side), mode="bilinear", antialias=planes.shape[2] > side, align_corners=False)


def class_weights(labels: Sequence[int], classes: int) -> Tensor:
    """Return a weight per class by inverse frequency, (K,) float32; their mean over the tiles is 1."""
    counts = torch.bincount(torch.as_tensor(labels), minlength=classes).clamp_min(1).float()
    return counts.sum() / (classes * counts)
