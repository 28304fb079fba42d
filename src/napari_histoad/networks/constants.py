"""Constants of a network or a detector on the device where tiles are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["on_device"]

_COPIES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # go with the tensors that they are copies of


def on_device(constant: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, copied there once: a GPU that fetched it for every batch would wait each time.

    Parameters
    ----------
    constant : tensor
        Not changed in place once it has been used.
    device : torch.device
    """
    if constant.device == device or torch.compiler.is_compiling():  # a compiled network moves its constants itself
        return constant.to(device)
    copies: dict[torch.device, Tensor] = _COPIES.setdefault(constant, {})  # type: ignore[no-untyped-call]
    if device not in copies:
        with torch.inference_mode(mode=False):  # else it could not be trained with later
            copies[device] = constant.to(device)
    return copies[device]
