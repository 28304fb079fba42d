"""Describes a threshold in words: which tiles it flags, and with what error rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histoad.calibration import describe_basis

if TYPE_CHECKING:
    from napari_histoad.gui.controller import Review


def rate_words(review: Review, chosen: float, *, by_discoveries: bool) -> str:
    """Return, as rich text, the error rate of the threshold, the flagged regions, and the basis of the calibration.

    ``chosen`` is the rate that the slider shows, a false discovery rate if ``by_discoveries``.
    """
    source = review.map
    basis = source.calibration.basis
    most = "About" if basis is None or basis.approximate else "At most"
    threshold = f"(p ≤ {review.rate:.3g})"
    if by_discoveries:
        words = f"<b>{chosen:.2%}</b> of the flagged tiles are expected to be normal {threshold}"
    else:
        words = f"<b>{review.rate:.2%}</b> of normal tiles are flagged {threshold}"
    if source.drift_warning:
        words = f"On slides like those of the calibration, {words}; this slide differs from them."
    else:
        words = f"{most} {words}."
    found = review.findings[0].upper() + review.findings[1:]
    return "<br>".join([words, f"{found}.", f"{describe_basis(basis)}."])
