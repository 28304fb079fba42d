"""Describes a threshold in words: which tiles it flags, and with what error rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoad.calibration import describe_basis

if TYPE_CHECKING:
    from napari_histoad.gui.controller import Review

__all__ = ["rate_words"]


def rate_words(review: Review, chosen: float, *, by_discoveries: bool) -> str:
    """Return, as rich text, the error rate of the threshold, the flagged regions, and the basis of the calibration.

    Parameters
    ----------
    review : Review
    chosen : float
        The rate that the slider shows, 0 to 1.
    by_discoveries : bool
        Whether it is a false discovery rate.
    """
    source = review.map
    basis = source.calibration.basis
    most = "about" if basis is None or basis.approximate else "at most"
    threshold = f"(p ≤ {review.rate:.3g})"
    if source.drift_warning:
        goal = (
            f"<b>{chosen:.2%}</b> of the flagged tiles should be" if by_discoveries else f"<b>{review.rate:.2%}</b> of tiles are"
        )
        words = f"The threshold is where {goal} normal on slides like those of the calibration; this slide is not {threshold}."
    elif by_discoveries:
        words = f"Of the flagged tiles {most} <b>{chosen:.2%}</b> should be normal {threshold}."
    else:
        words = f"Flag what {most} <b>{review.rate:.2%}</b> of normal tiles exceed {threshold}."
    found = review.findings[0].upper() + review.findings[1:]
    return "<br>".join([words, f"{found}.", f"{describe_basis(basis)}."])
