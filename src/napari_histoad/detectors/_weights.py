"""Where weights of others lie on this machine: in the hub's cache, or in a file that the user gave once.

They are never downloaded unasked: see `fetch_weights`. A saved detector names them by hash and does not contain them; by
that hash they are found again.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from napari_histoad.errors import BackboneError
from napari_histoad.remembered import recall, remember

__all__ = ["cached_weights", "download_weights", "known_weights", "register_weights"]

_FILES = ("model.safetensors", "pytorch_model.bin")
_KIND = "weights"


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
