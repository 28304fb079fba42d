"""The contract that every detector keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from napari_histoad.calibration import Calibration

__all__ = [
    "BackboneRecord",
    "Detector",
    "DetectorSettings",
    "TileScores",
    "descend",
    "load_module",
    "module_state",
    "weighted_mean",
]

_STEEPEST = 1.0


class DetectorSettings(BaseModel):
    """What every method lets the user set; methods add their own.

    Attributes
    ----------
    tile_px : int
        Side of a tile in pixels.
    mpp : float
        µm per tile pixel.
    srgb : bool
        Whether slides that embed a colour profile are converted to sRGB, in training and in mapping alike.
    stain : {"none", "macenko", "vahadane", "reinhard"}
        Give every slide the stains that the slides of training have in the median, in training and in mapping alike.
    stain_jitter : float
        While a network learns, each tile's stains are made this much stronger or weaker at random, see
        `napari_histoad.networks.augment.stain_jitter`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile_px: int = Field(256, ge=32, le=1024, multiple_of=8)
    mpp: float = Field(0.5, ge=0.05, le=20)
    srgb: bool = False
    stain: Literal["none", "macenko", "vahadane", "reinhard"] = "none"
    stain_jitter: float = Field(0.0, ge=0, le=0.5)


class BackboneRecord(BaseModel):
    """Which frozen weights of others a detector was fitted on.

    Attributes
    ----------
    name : str
    licence : str
        As its authors state it.
    sha256 : str
        Of the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    licence: str
    sha256: str


@dataclass(frozen=True)
class TileScores:
    """What a detector says of B tiles; higher is more anomalous.

    Attributes
    ----------
    score : (B,) float32 tensor
    error_map : (B, h, w) float32 tensor or None
        Where in the tile; any resolution.
    reconstruction : (B, 3, h, w) float32 tensor in [0, 1] or None
        What the detector expected to see; any resolution: few ask for it, so it is not resized here.
    probabilities : (B, K) float32 tensor or None
        Of classes, if a classifier goes with the detector.
    """

    score: Tensor
    error_map: Tensor | None = None
    reconstruction: Tensor | None = None
    probabilities: Tensor | None = None


class Detector(ABC):
    """Learns what normal tiles look like and says how far a tile is from that.

    Training has two stages, either of which may be empty: gradient descent on `losses` over the parameters of
    `network`, driven by the engine, then the closed-form `fit`. The state is all tensors, see `state`.

    Parameters
    ----------
    settings : DetectorSettings
        An instance of the class's ``Settings``.

    Attributes
    ----------
    calibration : Calibration or None
        Scores of normal tiles; None until it is trained.
    trained_on : tuple[str, ...]
        Names of slides or tile sets.
    backbone : BackboneRecord or None
        Frozen weights of others that it rests on.
    stain_target : tuple of float
        With stain normalisation: the stains that every slide is given; empty without.
    left_out : (K,) int64
        After training with refinement: which of the tiles were left out. Not saved.
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
    Settings: ClassVar[type[DetectorSettings]]

    def __init__(self, settings: DetectorSettings) -> None:
        self.settings = settings
        self.calibration: Calibration | None = None
        self.trained_on: tuple[str, ...] = ()
        self.stain_target: tuple[float, ...] = ()
        self.left_out: NDArray[np.int64] = np.empty(0, np.int64)
        self.backbone: BackboneRecord | None = None
        self.device = torch.device("cpu")

    @property
    def network(self) -> nn.Module | None:
        """What gradient descent trains, or None for closed-form methods."""
        return None

    @property
    def reduced_precision(self) -> bool:
        """Whether scores computed in bfloat16 rank tiles as those in float32 do (Spearman's correlation 0.999 or more)."""
        return True

    @property
    def compiles(self) -> bool:
        """Whether `torch.compile` makes the scoring faster."""
        return True

    @property
    def steps(self) -> int:
        """Largest number of gradient steps; 0 for closed-form methods."""
        return 0

    @property
    def settled(self) -> bool:
        """Whether the network as it is now may be kept; False while it still grows."""
        return True

    def check_trainable(self) -> None:
        """Raise a SettingsError if the settings are valid, as files of earlier versions may have them, but lead nowhere."""

    def prepare(self, images: NDArray[np.uint8]) -> None:
        """Estimate constants from training tiles (N, H, W, 3) before gradient descent."""

    def losses(self, images: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """Return named losses of a batch (B, H, W, 3) uint8; ``"loss"`` is descended, the others are shown.

        ``weights`` (B,) says how much each tile counts, by default 1; below 0 is what the network is to do worse on.
        """
        raise NotImplementedError(f"{self.name} is not trained by gradient descent")

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers over the network's parameters; adversaries have one each."""
        raise NotImplementedError(f"{self.name} is not trained by gradient descent")

    def learn(
        self,
        images: Tensor,
        optimizers: list[torch.optim.Optimizer],
        backward: Callable[[Tensor], None],
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Take one step of gradient descent on a batch (B, H, W, 3) uint8 and return what to show.

        Parameters
        ----------
        images : (B, H, W, 3) uint8 tensor on ``self.device``
        optimizers : list of Optimizer
            What `optimizers` returned.
        backward : callable
            Computes gradients of a loss, in place of ``loss.backward()``.
        weights : (B,) float32 tensor, optional
            See `losses`.
        """
        losses = self.losses(images, weights)
        descend(losses["loss"], optimizers[0], backward)
        return losses

    def rebuild(self, images: Tensor) -> Tensor | None:  # noqa: ARG002 - for those who can
        """Return what the network makes of a batch, (B, 3, h, w) in [0, 1], to be shown while it learns; before `fit`."""
        return None

    def codes(self, images: Tensor) -> Tensor | None:  # noqa: ARG002 - for those who have some
        """Return features (B, D) in which unusual tiles lie apart, for refinement; None if the score is all there is."""
        return None

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:
        """Fit the closed-form part on normal tiles (N, H, W, 3) uint8.

        Parameters
        ----------
        robust : bool
            The tiles may hold some anomalies: find and leave out the ones that stick out.
        """

    @abstractmethod
    def score(self, images: Tensor) -> TileScores:
        """Score a batch.

        Parameters
        ----------
        images : (B, H, W, 3) uint8 tensor on ``self.device``
            Tiles of ``settings.tile_px`` at ``settings.mpp``.
        """

    def state(self) -> dict[str, Tensor]:
        """Return all that training found, as named tensors on the CPU."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned.

        Raises
        ------
        KeyError, ValueError, RuntimeError
            If names or shapes do not fit.
        """

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        self.device = device
        if self.network is not None:
            self.network.to(device)


def module_state(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module, on the CPU, under ``prefix``."""
    return {f"{prefix}.{name}": value.detach().cpu() for name, value in module.state_dict().items()}


def load_module(state: dict[str, Tensor], prefix: str, module: nn.Module) -> None:
    """Take over what `module_state` returned; raises RuntimeError if names or shapes do not fit."""
    start = f"{prefix}."
    module.load_state_dict({name[len(start) :]: value for name, value in state.items() if name.startswith(start)})


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over a batch of values (B, ...), each tile's times its weight (B,) if there are any."""
    values = values.flatten(1).mean(1) if values.ndim > 1 else values
    return values.mean() if weights is None else (values * weights).mean()


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, backward: Callable[[Tensor], None]) -> None:
    """Take one step of an optimiser down a loss, with the gradient clipped to norm 1."""
    optimizer.zero_grad(set_to_none=True)
    backward(loss)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, _STEEPEST)
    optimizer.step()
