"""Encoders as the Hugging Face hub stores them: a folder with ``config.json`` and a file of weights.

Read are timm's format and, of transformers' formats, ViT and DINOv2. Nothing in such a folder is run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histoad.detectors._base import EncoderRecord
from napari_histoad.detectors._known_encoders import HUB, KnownEncoder, known_encoder
from napari_histoad.detectors._timm import import_timm
from napari_histoad.detectors._vit_weights import TRANSFORMERS_TYPES, from_transformers, vit_arguments
from napari_histoad.detectors._weights import (
    WEIGHT_FILES,
    cached_file,
    download_optional,
    download_weights,
    read_weights,
    register_weights,
)
from napari_histoad.errors import EncoderError
from napari_histoad.networks.encoder import TimmEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["describe_hub", "fetch_hub", "open_hub"]

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_TRUNK = "visual.trunk."
"""How the names of the image encoder's weights begin in models of images and texts."""
_IGNORED = {"num_classes", "dynamic_img_size", "pretrained", "features_only"}
_WORDS = {"act_layer", "global_pool", "norm_layer"}
"""Arguments of timm models that may be strings; another one is the path of a file, which timm would load."""


@dataclass(frozen=True)
class _Files:
    weights: Path
    config: dict[str, Any]
    preprocessor: dict[str, Any]


def describe_hub(name: str) -> dict[str, str]:
    """Return name, licence, origin and local file of the weights of ``hf-hub:owner/name``; see `describe_encoder`."""
    repository = name.removeprefix(HUB)
    page = f"https://huggingface.co/{repository}"
    known = known_encoder(name)
    licence = f"not known here, read {page}" if known is None else known.licence
    if known is not None and known.gated:
        licence += f" (access has to be requested at {page})"
    return {"name": name, "licence": licence, "from": page, "file": str(_cached_weights(repository) or "")}


def fetch_hub(name: str) -> Path:
    """Download the weights of ``hf-hub:owner/name``, and what describes them, and return the weights' file.

    Raises
    ------
    EncoderError
        If they cannot be downloaded.
    """
    repository = name.removeprefix(HUB)
    weights = download_weights(name, repository)
    for file in (_CONFIG, _PREPROCESSOR):
        download_optional(repository, file)
    return weights


def open_hub(name: str, given: Path | None, tile_px: int) -> tuple[TimmEncoder, EncoderRecord]:
    """Return an encoder and the record of its weights, see `open_encoder`.

    Parameters
    ----------
    name : str
        ``hf-hub:owner/name`` or ``folder:name``.
    given : Path, optional
        Folder of the hub's layout, or the file of weights in it; by default that of an earlier download.
    tile_px : int
        Input size of convolutional networks; a transformer has its own.

    Raises
    ------
    EncoderError
        If the files are not on this machine, cannot be read, or do not describe a network of a known kind.
    """
    known = known_encoder(name)
    files = _locate(name, given, known)
    state = read_weights(files.weights)
    if any(key.startswith(_TRUNK) for key in state):
        state = {key.removeprefix(_TRUNK): value for key, value in state.items() if key.startswith(_TRUNK)}
    try:
        model, scaling, own_side = _build(files, state, known)
        side = known.side if known is not None else own_side
        if own_side is None:
            side = tile_px
        elif side != own_side:
            model.set_input_size((side, side))
    except Exception as err:  # any error of a model that gets arguments or tensors of another one
        reason = next(iter(str(err).splitlines()), type(err).__name__)[:160]
        what = f"{files.weights.name} and {_CONFIG} do not describe an encoder that can be read ({reason})"
        raise EncoderError(what, f"use a model of timm, or of transformers' types {', '.join(TRANSFORMERS_TYPES)}") from err
    mean, std = scaling
    pooling = known.pooling if known is not None else "class+mean"
    licence = known.licence if known is not None else str(_pretrained(files.config).get("license") or "not stated")
    encoder = TimmEncoder(model, mean, std, side or tile_px, pooling=pooling)
    return encoder, EncoderRecord(name=name, licence=licence, sha256=register_weights(files.weights))


def _build(files: _Files, state: dict[str, Tensor], known: KnownEncoder | None) -> tuple[Any, Any, int | None]:
    """Return a timm model with its weights, mean and deviation of pixels, and its input size if it is a transformer."""
    timm, config = import_timm(), files.config
    if "architecture" in config:
        name, arguments = str(config["architecture"]), _arguments(config.get("model_args", {}))
        if not timm.is_model(name):
            raise ValueError(f"timm has no architecture named {name}")
    elif config.get("model_type") in TRANSFORMERS_TYPES:
        name = "vit_base_patch16_224"
        arguments, state = from_transformers(config, state)
    else:
        raise ValueError(f"its type is {config.get('model_type', 'not stated')}")
    transformer = "blocks.0.mlp.fc1.weight" in state and "pos_embed" in state
    if transformer:
        shown, state = vit_arguments(state)
        arguments |= shown
    if known is not None and known.heads is not None:
        arguments["num_heads"] = known.heads
    model = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    head = f"{model.pretrained_cfg.get('classifier') or 'head'}."
    model.load_state_dict({key: value for key, value in state.items() if not key.startswith(head)}, strict=True)
    return model, _scaling(files, known), arguments["img_size"] if transformer else None


def _arguments(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a timm model that a configuration may set: numbers, and names of layers."""
    kinds = (bool, int, float, list, type(None))
    return {
        k: v for k, v in stated.items() if k not in _IGNORED and (isinstance(v, kinds) or (k in _WORDS and isinstance(v, str)))
    }


def _scaling(files: _Files, known: KnownEncoder | None) -> Any:
    config, processor = _pretrained(files.config), files.preprocessor
    if "mean" in config and "std" in config:
        return config["mean"], config["std"]
    if "image_mean" in processor and "image_std" in processor:
        return processor["image_mean"], processor["image_std"]
    if known is not None:
        return known.scaling
    raise ValueError(f"neither {_CONFIG} nor {_PREPROCESSOR} states the mean and deviation of pixels")


def _pretrained(config: Mapping[str, Any]) -> dict[str, Any]:
    found = config.get("pretrained_cfg", {})
    return found if isinstance(found, dict) else {}


def _cached_weights(repository: str) -> Path | None:
    return next((file for name in WEIGHT_FILES if (file := cached_file(repository, name)) is not None), None)


def _locate(name: str, given: Path | None, known: KnownEncoder | None) -> _Files:
    """Return the files of an encoder on this machine."""
    repository = name.removeprefix(HUB) if name.startswith(HUB) else None
    weights = given
    if given is not None and given.is_dir():
        weights = next((given / file for file in WEIGHT_FILES if (given / file).is_file()), None)
        if weights is None:
            raise EncoderError(f"{given} contains neither {' nor '.join(WEIGHT_FILES)}", "choose another folder")
    elif given is None and repository is not None:
        weights = _cached_weights(repository)
    if weights is None:
        remedy = "give its folder: --backbone-weights FOLDER to train, histoad models --weights FILE for a detector trained on it"
        if repository is not None:
            remedy = f"download them with histoad models --fetch {name}, or {remedy}"
        raise EncoderError(f"the weights of {name} are not on this machine", remedy)

    def read(file: str) -> dict[str, Any]:
        beside = weights.with_name(file)
        found = beside if beside.is_file() else None if repository is None else cached_file(repository, file)
        try:
            document = {} if found is None else json.loads(found.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise EncoderError(f"{found} cannot be read ({err})", "download it again") from err
        return document if isinstance(document, dict) else {}

    config = read(_CONFIG)
    if not config and known is not None and known.architecture:
        config = {"architecture": known.architecture}
    if not config:
        raise EncoderError(f"there is no {_CONFIG} beside {weights.name}", "put the one of the same download there")
    return _Files(weights, config, read(_PREPROCESSOR))
