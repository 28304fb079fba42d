"""Several criteria, each with a threshold of its own, joined by OR into one score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_histoad.networks.constants import on_device

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Criteria"]

_FLOOR = 1e-6


class Criteria:
    """Puts criteria on one scale and takes the worst.

    Each is standardised by mean and deviation over normals, μ and σ: that some criterion lies beyond μ + kσ is that
    their maximum lies beyond k. The calibration then sets k by the false-positive rate of both together, in place of
    fixed numbers.

    Parameters
    ----------
    count : int
    """

    def __init__(self, count: int) -> None:
        self._scale = torch.tensor([[0.0, 1.0]] * count)

    def fit(self, values: Tensor) -> None:
        """Fit to the criteria (N, count) of normals; higher is more anomalous."""
        deviation, mean = torch.std_mean(values.double(), dim=0)
        self._scale = torch.stack([mean, deviation.clamp_min(_FLOOR)], 1).float()

    def join(self, values: Tensor, which: int | None = None) -> Tensor:
        """Return scores (B,), not negative, of criteria (B, count): of all, or of one only."""
        mean, deviation = on_device(self._scale, values.device).unbind(1)
        z = (values.float() - mean) / deviation
        worst = z.amax(1) if which is None else z[:, which]
        return F.softplus(worst)  # keeps the order and cannot overflow

    def state(self) -> dict[str, Tensor]:
        """Return means and deviations."""
        return {"criteria": self._scale}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        if state["criteria"].shape != self._scale.shape:
            raise ValueError(f"{len(state['criteria'])} criteria given, {len(self._scale)} due")
        self._scale = state["criteria"].float()
