"""Modules that are fitted in closed form: what they learn is in buffers, which `state_dict` saves and `to` moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FittedModule"]


class FittedModule(nn.Module):
    """A module with buffers whose shapes may only be known after fitting.

    Attributes
    ----------
    unsaved : tuple of str
        How the names in `state_dict` begin that are not saved: third-party weights, and what only training needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unsaved: tuple[str, ...] = ()
        self._free: dict[str, tuple[int, ...]] = {}

    def hold(self, name: str, value: Tensor, free: tuple[int, ...] = (), *, persistent: bool = True) -> None:
        """Register a buffer; loading a state may change its size along the ``free`` dimensions."""
        self.register_buffer(name, value, persistent=persistent)
        self._free[name] = free

    def keep(self, **values: Tensor) -> None:
        """Replace buffers by copies of the values, on the device and of the data type of the buffers."""
        with torch.inference_mode(mode=False):  # training may follow, which refuses tensors of the inference mode
            for name, value in values.items():
                setattr(self, name, value.detach().to(self.get_buffer(name), copy=True))

    def check_fit(self) -> None:
        """Raise a ValueError if the buffers contradict each other; called after a saved state has been loaded."""

    def saved_state(self) -> dict[str, Tensor]:
        """Return the part of `state_dict` that is saved, on the CPU."""
        state = self.state_dict().items()
        return {name: value.detach().cpu() for name, value in state if not name.startswith(self.unsaved)}

    def load_saved_state(self, state: dict[str, Tensor]) -> None:
        """Load what `saved_state` returned.

        Raises
        ------
        RuntimeError, ValueError
            If names are missing or unknown, or shapes do not match.
        """
        found = self.load_state_dict(state, strict=False)
        wrong = [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.startswith(self.unsaved)]
        if wrong:
            raise ValueError(f"{wrong[0]} is missing or unknown")
        for module in self.modules():
            if isinstance(module, FittedModule):
                module.check_fit()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Give the buffers the sizes that they have in the state."""
        for name, free in self._free.items():
            buffer, given = self.get_buffer(name), state_dict.get(f"{prefix}{name}")
            if given is not None and given.ndim == buffer.ndim:
                shape = [given.shape[k] if k in free else size for k, size in enumerate(buffer.shape)]
                setattr(self, name, buffer.new_zeros(shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
