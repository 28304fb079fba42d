"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2016, arXiv:1610.02391), by captum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_histoad.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histoad.classifiers._base import Classifier

__all__ = ["grad_cam"]


def grad_cam(classifier: Classifier, images: Tensor, target: int) -> Tensor:
    """Return how much each place of the tiles speaks for a class, (B, H, W) float32 in [0, 1], 1 at the strongest.

    Of an ensemble the members' maps are joined by how much each counts. With ``centre="crop"`` what was cut off is 0.

    Parameters
    ----------
    classifier : Classifier
    images : (B, H, W, 3) uint8 tensor on its device
    target : int
        The class.

    Raises
    ------
    SettingsError
        If no member has a map to look at.
    """
    seeing = [(m, s) for m, s in zip(classifier.members, classifier.shares.tolist(), strict=True) if not m.fine]
    if not seeing:
        raise SettingsError("texture statistics are of whole tiles: they cannot say where", "explain another kind of network")
    from captum.attr import LayerGradCam  # slow to import, and few ask for it

    with torch.no_grad():
        stack = classifier.stack(images)
    side = images.shape[1]
    seen = round(side * stack.shape[2] / (classifier.settings.input_px or side))
    total = torch.zeros(len(images), 1, side, side, device=images.device)
    for member, share in seeing:
        member.eval()
        relevance = LayerGradCam(member, member.body).attribute(stack, target=target, relu_attributions=True).detach()
        relevance = relevance / relevance.amax((2, 3), keepdim=True).clamp_min(1e-12)
        edge = (side - seen) // 2
        total[:, :, edge : edge + seen, edge : edge + seen] += share * F.interpolate(relevance, (seen, seen), mode="bilinear")
    return (total / total.amax((2, 3), keepdim=True).clamp_min(1e-12))[:, 0]
