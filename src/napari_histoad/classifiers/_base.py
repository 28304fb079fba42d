"""Classifiers of tiles: one or several networks on image, reconstruction and error map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from napari_histoad.classifiers._networks import build_network
from napari_histoad.errors import SettingsError
from napari_histoad.networks.classifier import MEAN, STD
from napari_histoad.networks.fitted_module import FittedModule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from napari_histoad.detectors import Detector, TileScores
    from napari_histoad.networks.classifier import TileNetwork

Input = Literal["image", "reconstruction", "error"]
CHANNELS: dict[Input, int] = {"image": 3, "reconstruction": 3, "error": 1}


class ClassifierSettings(BaseModel):
    """Settings of a classifier."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    networks: tuple[str, ...] = Field(("resnet18",), min_length=1)  # one or an ensemble: names in `NETWORKS`, or timm models
    seeds: int = Field(1, ge=1, le=20)  # number of networks of each kind
    inputs: tuple[Input, ...] = Field(("image",), min_length=1)  # reconstruction and error need a detector
    classes: tuple[str, ...] = Field(("normal", "anomalous"), min_length=2)
    tile_px: int = Field(256, ge=32, le=1024)
    mpp: float = Field(0.5, ge=0.05, le=20)  # µm per pixel of the tiles
    input_px: int | None = Field(None, ge=32, le=1024)  # tiles are resized to this side; None does not resize them
    centre: Literal["all", "crop", "attention"] = "all"  # labels of the centre only: crop it, or weigh it by a learnt Gaussian
    centre_px: int = Field(32, ge=16, le=1024)  # side of the crop, after resizing
    weighting: Literal["mean", "validation"] = "mean"  # of an ensemble: equal, or by the inverse of the validation loss
    pretrained: bool = False  # start from timm's weights; the body is frozen at first
    augment: bool = True  # rotate, flip, shift, shear, zoom and tint training tiles at random
    dropout: float = Field(0.0, ge=0, lt=1)  # of `base_cnn`
    epochs: int = Field(30, ge=1, le=10_000)
    frozen_epochs: int = Field(3, ge=0, le=1000)  # of the pretrained body
    patience: int = Field(6, ge=1, le=1000)  # epochs without progress on validation tiles before training stops
    batch: int = Field(32, ge=2, le=4096)
    learning_rate: float = Field(3e-4, gt=0, le=1)
    weight_decay: float = Field(1e-4, ge=0, le=1)

    @field_validator("inputs", "classes")
    @classmethod
    def _once(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise ValueError("give each name once")
        return values

    @model_validator(mode="after")
    def _check_texture(self) -> Self:
        if "texture" in self.networks and (self.inputs[0] != "image" or self.centre == "attention"):
            raise ValueError("texture needs image as the first input, and centre other than attention")
        return self

    @property
    def channels(self) -> int:
        """Number of channels of the stacked inputs."""
        return sum(CHANNELS[name] for name in self.inputs)

    @property
    def side_px(self) -> int:
        """Side of the networks' input."""
        side = self.input_px or self.tile_px
        return min(side, self.centre_px) if self.centre == "crop" else side

    @property
    def needs_detector(self) -> bool:
        """Whether some input comes from a detector."""
        return self.inputs != ("image",)


class Classifier(FittedModule):
    """Computes the probability of each class for a tile.

    Parameters
    ----------
    settings : ClassifierSettings
    detector : Detector, optional
        A trained detector that computes reconstruction and error map; it is saved with the classifier.
    weights : dict of str to Path, optional
        Files of pretrained weights by name of the network.

    Attributes
    ----------
    members : list of TileNetwork
        The networks, ``seeds`` of each kind.
    shares : (M,) float32
        Weights of the networks; they sum to 1.
    temperatures : (M,) float32
        Divide each network's logits, which calibrates its probabilities (Guo et al. 2017, arXiv:1706.04599). Classes have
        equal weight in training, so the probability of a rare class exceeds its frequency.
    error_scale : (2,) float32
        Mean and deviation of the error maps of training tiles, by which error maps are standardised.
    trained_on : tuple of str
        Names of slides or tile sets.

    Raises
    ------
    SettingsError
        If an input needs a detector and none is given, or the detector does not compute it.
    """

    shares: Tensor
    temperatures: Tensor
    error_scale: Tensor

    def __init__(
        self, settings: ClassifierSettings, detector: Detector | None = None, weights: dict[str, Path] | None = None
    ) -> None:
        super().__init__()
        if settings.needs_detector:
            _check_detector(settings, detector)
        self.settings, self.detector = settings, detector
        self.unsaved = ("detector.",)
        self.trained_on: tuple[str, ...] = ()
        members = [
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
        for k, member in enumerate(members):
            self.add_module(f"member{k}", member)
        self.hold("shares", torch.full((len(members),), 1 / len(members)))
        self.hold("temperatures", torch.ones(len(members)))
        self.hold("error_scale", torch.tensor([0.0, 1.0]))

    @property
    def members(self) -> list[TileNetwork]:
        """The networks."""
        return [getattr(self, f"member{k}") for k in range(len(self.shares))]

    @property
    def device(self) -> torch.device:
        """The device that it is on."""
        return self.shares.device

    def prepare(self, errors: Tensor) -> None:
        """Estimate the scale of error maps from those of training tiles (N, h, w)."""
        deviation, mean = torch.std_mean(errors.float())
        self.keep(error_scale=torch.stack([mean, deviation.clamp_min(1e-12)]))

    def stack(self, images: Tensor, scores: TileScores | None = None) -> Tensor:
        """Return the inputs as one tensor (B, C, S, S) float32.

        Parameters
        ----------
        images : (B, H, W, 3) uint8 tensor on ``self.device``
        scores : TileScores, optional
            The detector's scores of the batch; computed by default.
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
                mean, deviation = self.error_scale.unbind()
                parts.append((_resized(scores.error_map.float()[:, None], pixels.shape[2]) - mean) / deviation)
        return self._framed(torch.cat(parts, 1))

    def _framed(self, stack: Tensor) -> Tensor:
        if self.settings.input_px is not None:
            stack = _resized(stack, self.settings.input_px)
        edge = (stack.shape[2] - self.settings.side_px) // 2
        return stack[:, :, edge : edge + self.settings.side_px, edge : edge + self.settings.side_px]

    def probabilities(self, images: Tensor, scores: TileScores | None = None) -> Tensor:
        """Return the probability of each class (B, K) float32 of images (B, H, W, 3) uint8; see `stack`."""
        return self.probabilities_of(self.stack(images, scores))

    def probabilities_of(self, stack: Tensor) -> Tensor:
        """Return the probability of each class (B, K) float32 of stacked inputs."""
        return self.joined([member(stack) for member in self.members])

    def joined(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the probability of each class (B, K) float32 from the logits (B, K) of each network."""
        weights = zip(logits, self.shares, self.temperatures, strict=True)
        parts = [share * F.softmax(found.float() / temperature, dim=1) for found, share, temperature in weights]
        return torch.stack(parts).sum(0)

    def forward(self, images: Tensor) -> Tensor:
        """Return the probability of each class, see `probabilities`."""
        return self.probabilities(images)


def computes_error_map(detector: Detector) -> bool:
    """Return whether a detector computes error maps."""
    return _probe(detector).error_map is not None


def _probe(detector: Detector) -> TileScores:
    side = detector.settings.tile_px
    with torch.inference_mode():
        return detector.score(torch.full((1, side, side, 3), 200, dtype=torch.uint8, device=detector.device))


def _check_detector(settings: ClassifierSettings, detector: Detector | None) -> None:
    wanted = " and ".join(name for name in settings.inputs if name != "image")
    if detector is None:
        raise SettingsError(f"the classifier needs {wanted} from a detector", "name a trained detector with --model")
    side = detector.settings.tile_px
    if side != settings.tile_px:
        msg = f"the detector takes tiles of {side} px, the classifier of {settings.tile_px}"
        raise SettingsError(msg, f"use --tile-px {side}")
    scores = _probe(detector)
    given = {"reconstruction": scores.reconstruction, "error": scores.error_map}
    for name in settings.inputs:
        if name != "image" and given[name] is None:
            raise SettingsError(f"the detector {detector.name} computes no {name}", "use one that does, such as vqvae")


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
