"""Several criteria joined by OR into one score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["criteria_scale", "join_criteria"]

_FLOOR = 1e-6


def criteria_scale(values: Tensor) -> Tensor:
    """Return mean and deviation (C, 2) float32 of criteria (N, C) of normal tiles; higher is more anomalous."""
    deviation, mean = torch.std_mean(values.double(), dim=0)
    return torch.stack([mean, deviation.clamp_min(_FLOOR)], 1).float()


def join_criteria(values: Tensor, scale: Tensor, which: int | None = None) -> Tensor:
    """Return scores (B,), not negative, of criteria (B, C): of the most anomalous one, or of only one.

    Each criterion is standardised by its mean μ and deviation σ over normal tiles. Some criterion exceeds μ + kσ exactly if
    the maximum exceeds k, and the calibration chooses k by the false-positive rate of all together.

    Parameters
    ----------
    scale : (C, 2) float32
        See `criteria_scale`.
    which : int, optional
        The criterion to use alone.
    """
    mean, deviation = scale.unbind(1)
    z = (values.float() - mean) / deviation
    return F.softplus(z.amax(1) if which is None else z[:, which])  # keeps the order and cannot overflow
