"""The base class of all detectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from napari_histoad.networks.fitted_module import FittedModule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from napari_histoad.calibration import Calibration

__all__ = ["Detector", "DetectorSettings", "EncoderRecord", "TileScores", "descend", "weighted_mean"]

_MAX_GRADIENT_NORM = 1.0


class DetectorSettings(BaseModel):
    """Settings that every method has; methods add their own.

    Attributes
    ----------
    tile_px : int
        Side of a tile in pixels.
    mpp : float
        µm per tile pixel.
    srgb : bool
        Convert slides that embed a colour profile to sRGB, in training and in mapping.
    stain : {"none", "macenko", "vahadane", "reinhard"}
        Method of stain normalisation, in training and in mapping. Its target is the median over the training slides.
    stain_jitter : float
        While a network is trained, the density of each stain is scaled by 1 ± this at random, see
        `napari_histoad.networks.augment.stain_jitter`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile_px: int = Field(256, ge=32, le=1024, multiple_of=8)
    mpp: float = Field(0.5, ge=0.05, le=20)
    srgb: bool = False
    stain: Literal["none", "macenko", "vahadane", "reinhard"] = "none"
    stain_jitter: float = Field(0.0, ge=0, le=0.5)


class EncoderRecord(BaseModel):
    """Third-party weights of the encoder that a detector was fitted on.

    Attributes
    ----------
    name : str
        timm's name of the encoder.
    licence : str
        As its authors state it.
    sha256 : str
        SHA-256 of the file of weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    licence: str
    sha256: str


@dataclass(frozen=True)
class TileScores:
    """Scores of a batch of B tiles; higher is more anomalous.

    Attributes
    ----------
    score : (B,) float32 tensor
    error_map : (B, h, w) float32 tensor or None
        Anomaly inside the tiles, at any resolution.
    reconstruction : (B, 3, h, w) float32 tensor in [0, 1] or None
        The network's reconstruction, at any resolution.
    probabilities : (B, K) float32 tensor or None
        Probability of each class, if the detector has a classifier.
    """

    score: Tensor
    error_map: Tensor | None = None
    reconstruction: Tensor | None = None
    probabilities: Tensor | None = None


class Detector(FittedModule, ABC):
    """A module that learns what normal tiles look like and scores how far a tile is from that.

    Training has two stages, either of which may be empty: gradient descent on `losses` over the parameters of
    `network`, run by the engine, then the closed-form `fit`. Everything that training finds is in parameters and buffers.

    Parameters
    ----------
    settings : DetectorSettings
        An instance of the class's ``Settings``.

    Attributes
    ----------
    network : Module or None
        The module that gradient descent trains; None for closed-form methods.
    calibration : Calibration or None
        Scores of normal tiles; None until the detector is trained.
    trained_on : tuple of str
        Names of slides or tile sets.
    backbone : EncoderRecord or None
        Third-party weights of its encoder, if any.
    stain_target : tuple of float
        Target of the stain normalisation; empty without it.
    left_out : (K,) int64
        After training with refinement: rows of the tiles that were left out. Not saved.

    Examples
    --------
    ``examples/own_detector.py`` is a complete detector in one file.
    """

    name: ClassVar[str]
    """Identifier in commands and files; a built-in method's module has the same name."""
    title: ClassVar[str]
    """Name for people."""
    summary: ClassVar[str]
    """What it measures, in one sentence."""
    learns_by_steps: ClassVar[bool] = False
    """Whether it trains a network by gradient descent with the default settings."""
    uses_encoder: ClassVar[bool] = False
    """Whether the user chooses an encoder: the settings have ``backbone`` and ``backbone_weights``."""
    exports_onnx: ClassVar[bool] = False
    """Whether `export_onnx` can write it."""
    earlier: ClassVar[dict[str, Any]] = {}
    """Values, in files of earlier versions, of settings that these do not name and whose default has changed."""
    Settings: ClassVar[type[DetectorSettings]]

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> type[Detector]:  # noqa: ARG003 - most have only one
        """Return the class for these settings; most methods have only one."""
        return cls

    def __init__(self, settings: DetectorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.network: nn.Module | None = None
        self.calibration: Calibration | None = None
        self.trained_on: tuple[str, ...] = ()
        self.stain_target: tuple[float, ...] = ()
        self.left_out: NDArray[np.int64] = np.empty(0, np.int64)
        self.backbone: EncoderRecord | None = None
        self.hold("_located", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device that its parameters and buffers are on."""
        return self._located.device  # type: ignore[return-value]

    @property
    def allows_bfloat16(self) -> bool:
        """Whether scores computed in bfloat16 rank tiles as those in float32 do (Spearman's correlation at least 0.999)."""
        return True

    @property
    def compiles(self) -> bool:
        """Whether `torch.compile` makes scoring faster."""
        return True

    @property
    def scores_any_batch_alike(self) -> bool:
        """Whether a tile gets the same score, to the byte, in batches of most sizes, so that the fastest may be searched for.

        A distance from features is not: matrices of one row per tile are multiplied by other kernels if they have more rows.
        """
        return True

    @property
    def steps(self) -> int:
        """Maximum number of gradient steps; 0 for closed-form methods."""
        return 0

    @property
    def fully_grown(self) -> bool:
        """Whether all parts of the network are in use; until then its weights are not kept as the best ones."""
        return True

    def check_trainable(self) -> None:
        """Raise a SettingsError if it cannot be trained with these settings, which files of earlier versions may have."""

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Estimate constants from training tiles (N, H, W, 3) uint8 before gradient descent."""

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return named losses of a batch (B, H, W, 3) uint8; ``"loss"`` is minimised, the others are only shown.

        ``weights`` (B,) is the weight of each tile, by default 1. A negative one makes the network worse on the tile.
        """
        raise NotImplementedError(f"{self.name} is not trained by gradient descent")

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers of the network's parameters; each adversary has its own."""
        raise NotImplementedError(f"{self.name} is not trained by gradient descent")

    def learn(
        self,
        images: Tensor,
        optimizers: list[torch.optim.Optimizer],
        backward: Callable[[Tensor], None],
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Take one step of gradient descent on a batch (B, H, W, 3) uint8 and return its losses by name.

        Parameters
        ----------
        images : (B, H, W, 3) uint8 tensor on ``self.device``
        optimizers : list of Optimizer
            Those that `optimizers` returned.
        backward : callable
            Computes the gradients of a loss, instead of ``loss.backward()``.
        weights : (B,) float32 tensor, optional
            See `losses`.
        """
        losses = self.losses(images, weights)
        descend(losses["loss"], optimizers[0], backward)
        return losses

    def reconstruct(self, images: Tensor) -> Tensor | None:  # noqa: ARG002 - most have no reconstruction
        """Return the network's reconstruction of a batch, (B, 3, h, w) in [0, 1], or None. Does not need `fit`."""
        return None

    def features(self, images: Tensor) -> Tensor | None:  # noqa: ARG002 - some have no features
        """Return features (B, D) of a batch by which unusual tiles can be found before training, or None."""
        return None

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        """Fit the closed-form part on normal tiles (N, H, W, 3) uint8.

        Parameters
        ----------
        robust : bool
            The tiles may contain a few anomalies: leave out the most unusual tiles.
        """

    def fit_features(self, features: Tensor, *, robust: bool = False) -> None:
        """Fit the closed-form part to the features (N, D) of normal tiles, on the CPU, if it only needs these; see `fit`."""
        raise NotImplementedError(f"{self.name} is not fitted to features")

    def balance(self, images: NDArray[np.uint8], groups: NDArray[np.int64], *, robust: bool = False) -> None:
        """Weigh the parts of the score by their spread over normal tiles; called before `fit`.

        On the tiles that it is fitted to, a part with many parameters varies too little and would get too much weight.

        Parameters
        ----------
        images : (N, H, W, 3) uint8
        groups : (N,) int64
            Tiles of a group, such as a slide, are alike: the spread is that between groups as well.
        robust : bool
            See `fit`.
        """

    @abstractmethod
    def score(self, images: Tensor) -> TileScores:
        """Score a batch.

        Parameters
        ----------
        images : (B, H, W, 3) uint8 tensor on ``self.device``
            Tiles of ``settings.tile_px`` at ``settings.mpp``.
        """

    def forward(self, images: Tensor) -> TileScores:
        """Score a batch, see `score`."""
        return self.score(images)


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of values (B, ...), those of each tile multiplied by its weight (B,) if given."""
    values = values.flatten(1).mean(1) if values.ndim > 1 else values
    return values.mean() if weights is None else (values * weights).mean()


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, backward: Callable[[Tensor], None]) -> None:
    """Take one step of an optimiser on a loss, with the gradient clipped to norm 1."""
    optimizer.zero_grad(set_to_none=True)
    backward(loss)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
    optimizer.step()
