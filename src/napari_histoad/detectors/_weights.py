"""Where weights of others lie on this machine: in the hub's cache, or in a file that the user gave once.

They are never downloaded unasked: see `fetch_weights`. A saved detector names them by hash and does not contain them; by
that hash they are found again.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from napari_histoad.errors import BackboneError
from napari_histoad.system.remembered import recall, remember

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["cached_weights", "download_weights", "known_weights", "only_weights", "read_weights", "register_weights"]

_FORCED, _ALLOWED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_INNER = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts put the weights among other things; the first that is there counts, as timm does it."""
_FILES = ("model.safetensors", "pytorch_model.bin")
_KIND = "weights"


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file of weights by name: safetensors, or torch's own format without running what it holds.

    Raises
    ------
    BackboneError
        If the file holds anything else.
    """
    try:
        with file.open("rb") as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on old formats
            is_safetensors = handle.read(9)[8:] == b"{"
            handle.seek(0)
            # Code in a pickle is refused, not run. By handle, as torch goes by the name's ending otherwise.
            loaded: Any = (
                safetensors.torch.load_file(file) if is_safetensors else torch.load(handle, map_location="cpu", weights_only=True)
            )
        inner = next((loaded[name] for name in _INNER if loaded.get(name) is not None), loaded)
        tensors: dict[str, torch.Tensor] = {name.removeprefix("module."): value for name, value in inner.items()}
    except Exception as err:  # there is no telling what a damaged or hostile file makes an unpickler raise
        reason = next(iter(str(err).strip().splitlines()), type(err).__name__)[:120]
        remedy = "give a .safetensors, .pth or .bin file of weights alone"
        raise BackboneError(f"{file.name} does not hold weights that can be read safely ({reason})", remedy) from err
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise BackboneError(f"{file.name} does not hold weights alone", "give the file of a state dict: tensors by name")
    return tensors


@contextmanager
def only_weights() -> Iterator[None]:
    """Have torch refuse code in whatever is loaded within, by other libraries and against their wish too."""
    before = {name: os.environ.pop(name, None) for name in (_FORCED, _ALLOWED)}
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCED]
        os.environ |= {name: value for name, value in before.items() if value is not None}


def register_weights(file: Path) -> str:
    """Remember where a file of weights lies and return its SHA-256.

    Raises
    ------
    BackboneError
        If the file cannot be read.
    """
    try:
        with file.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as err:
        raise BackboneError(f"the weights {file} cannot be read ({err.strerror})", "check the path") from err
    remember(_KIND, digest, str(file.resolve()))
    return digest


def known_weights(sha256: str) -> Path | None:
    """Return the file that `register_weights` saw with this hash, if there is one still; whoever loads it checks its content."""
    found = recall(_KIND, sha256)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def cached_weights(config: Any) -> Path | None:
    """Return the file that an earlier download of a timm configuration left; nothing is asked of the network."""
    if not config.hf_hub_id:
        return None
    look = importlib.import_module("huggingface_hub").try_to_load_from_cache
    found = (look(config.hf_hub_id, file) for file in _FILES)
    return next((Path(file) for file in found if isinstance(file, str)), None)


def download_weights(name: str, config: Any) -> Path:
    """Download the weights of a timm configuration and return their file.

    Raises
    ------
    BackboneError
        If they cannot be had.
    """
    hub = importlib.import_module("huggingface_hub")
    offline = "download the file elsewhere and give it: Weights in the panel, --backbone-weights, or backbone_weights in Python"
    if not config.hf_hub_id:
        raise BackboneError(f"{name} has no weights on the hub", offline)
    for file in _FILES:
        try:
            return Path(hub.hf_hub_download(config.hf_hub_id, file))
        except hub.errors.EntryNotFoundError as err:
            if isinstance(err, hub.errors.LocalEntryNotFoundError):  # nobody answered
                raise BackboneError(f"the weights of {name} cannot be downloaded (no connection to the hub)", offline) from err
        except Exception as err:  # one that breaks off raises whatever the HTTP library under the hub's client does
            reason = str(err).strip().split("\n")[0][:160] or type(err).__name__
            raise BackboneError(f"the weights of {name} cannot be downloaded ({reason})", f"try again, or {offline}") from err
    raise BackboneError(f"{config.hf_hub_id} holds no weights that timm reads", offline)
