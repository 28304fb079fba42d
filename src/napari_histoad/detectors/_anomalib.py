"""The image models of the anomalib package (PatchCore, PaDiM, Reverse Distillation, …) as detectors.

Needs the extra: ``pip install "napari-histoad[anomalib]"``. Akcay et al. 2022 (arXiv:2202.08341).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import warnings
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field

from napari_histoad.detectors._base import Detector, DetectorSettings, TileScores
from napari_histoad.detectors._encoders import weights_file
from napari_histoad.detectors._features import to_pixels
from napari_histoad.detectors._timm import import_timm
from napari_histoad.detectors._weights import only_weights
from napari_histoad.errors import EncoderError, SettingsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["PREFIX", "AnomalibDetector", "AnomalibSettings", "anomalib_class"]

PREFIX = "anomalib:"
_OFF = ("post_processor", "evaluator", "visualizer")


class AnomalibSettings(DetectorSettings):
    """Settings of anomalib's models.

    Attributes
    ----------
    options : dict
        Arguments of the model's class, such as ``backbone``, ``layers`` or ``pre_trained``.
    epochs : int or None
        Default: the model's own, one for models that only collect features.
    batch : int
    """

    options: dict[str, Any] = Field(default_factory=dict)
    epochs: int | None = Field(None, ge=1)
    batch: int = Field(16, ge=1, le=1024)


class AnomalibDetector(Detector):
    """A model of anomalib; `anomalib_class` makes a subclass for each."""

    Settings = AnomalibSettings
    exports_onnx: ClassVar[bool] = True
    settings: AnomalibSettings
    model_name: ClassVar[str]

    def __init__(self, settings: AnomalibSettings) -> None:
        super().__init__(settings)
        self.lightning: Any = None  # not the network: anomalib's own loop trains it

    @property
    def allows_bfloat16(self) -> bool:
        return False

    def fit(self, images: NDArray[np.uint8], *, robust: bool = False) -> None:  # noqa: ARG002
        """Train with anomalib's own loop. ``robust`` has no effect."""
        self.lightning = self._build(pre_trained=True)
        data: Any = importlib.import_module("anomalib.data")
        lightning: Any = importlib.import_module("lightning")
        tiles = torch.utils.data.TensorDataset(torch.from_numpy(images))

        def batch(rows: list[tuple[Tensor]]) -> Any:
            pixels = to_pixels(torch.stack([row[0] for row in rows]))
            return data.ImageBatch(image=pixels.contiguous(), gt_label=torch.zeros(len(rows), dtype=torch.int64))

        loader = torch.utils.data.DataLoader(tiles, self.settings.batch, shuffle=True, collate_fn=batch)
        arguments = {
            "accelerator": self.device.type,
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 0,
            "max_epochs": 1,
            **self.lightning.trainer_arguments,
        }
        if self.settings.epochs is not None:
            arguments["max_epochs"] = self.settings.epochs
        for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "anomalib"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings(), only_weights():
                warnings.simplefilter("ignore")
                lightning.Trainer(**arguments).fit(self.lightning, loader)
        except (
            AttributeError,
            KeyError,
            NotImplementedError,
            OSError,
            RuntimeError,
            TypeError,
            UnpicklingError,
            ValueError,
        ) as err:
            reason = str(err).splitlines()[0][:160] if str(err) else type(err).__name__
            raise SettingsError(
                f"{self.name} cannot be trained on normal tiles alone ({reason})", "choose another model"
            ) from err
        self.lightning.eval().to(self.device)

    def score(self, images: Tensor) -> TileScores:
        found = self.lightning(to_pixels(images).contiguous())
        where = found.anomaly_map
        score = found.pred_score if found.pred_score is not None else where.flatten(1).amax(1)
        error_map = None if where is None else where.float().reshape(len(images), *where.shape[-2:])
        return TileScores(score.reshape(-1).float(), error_map)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: object) -> None:
        """Build the model; the file has all weights, the encoder's too."""
        if self.lightning is None:
            self.lightning = self._build(pre_trained=False)
        for name in [name for name in state_dict if not name.startswith("lightning.")]:  # files of earlier versions
            state_dict[f"lightning.{name}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _build(self, *, pre_trained: bool) -> Any:
        models = _import_anomalib()
        cls = _class_of(models, self.model_name)
        known = inspect.signature(cls).parameters
        options = dict(self.settings.options) | {name: False for name in _OFF if name in known}
        # Some models lack this argument and always load weights.
        wanted = options.get("pre_trained", True) and (pre_trained or "pre_trained" not in known)
        backbone = options.get("backbone", known["backbone"].default if "backbone" in known else None)
        if wanted and isinstance(backbone, str) and weights_file(backbone) is None:
            raise EncoderError(
                f"the weights of {backbone}, which {self.name} uses, are not on this machine",
                f"download them with histoad models --fetch {backbone}, or set options: {{pre_trained: false}}",
            )
        if "pre_trained" in known:
            options["pre_trained"] = wanted
        if "pre_processor" in known:
            options["pre_processor"] = cls.configure_pre_processor(image_size=(self.settings.tile_px,) * 2)
        try:
            with only_weights():
                return cls(**options)
        except (OSError, TypeError, ValueError, UnpicklingError) as err:
            raise SettingsError(f"{self.name}: {str(err).splitlines()[0]}", f"options are {', '.join(known)}") from err


def anomalib_class(name: str) -> type[AnomalibDetector]:
    """Return the detector ``anomalib:<model>``.

    Raises
    ------
    SettingsError
        If anomalib is not installed or has no such model.
    """
    model = name.removeprefix(PREFIX)
    _class_of(_import_anomalib(), model)
    described = {"title": f"anomalib: {model}", "summary": f"The {model} model of the anomalib package."}
    return type("AnomalibDetector", (AnomalibDetector,), {"name": name, "model_name": model, **described})


def _class_of(models: Any, model: str) -> Any:
    known = {_snake(name): value for name, value in vars(models).items() if inspect.isclass(value)}
    if model not in known:
        raise SettingsError(f"anomalib has no model named {model!r}", f"known are {', '.join(sorted(known))}")
    return known[model]


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() and k and not name[k - 1].isupper() else c.lower() for k, c in enumerate(name))


def _import_anomalib() -> Any:
    if importlib.util.find_spec("anomalib") is None:
        raise SettingsError("anomalib is not installed", 'pip install "napari-histoad[anomalib]"')
    import_timm()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("anomalib.models.image")
