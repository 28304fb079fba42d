"""Where a classifier looks, by captum: Grad-CAM, or occlusion where a network has no map of features to weigh.

Papers: Selvaraju et al. 2016 (arXiv:1610.02391, Grad-CAM); Zeiler & Fergus 2013 (arXiv:1311.2901, occlusion).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histoad.classifiers._base import Classifier
    from napari_histoad.networks.classifier import TileNetwork

__all__ = ["relevance"]

_WINDOWS, _OVERLAP, _BLUR = 2, 2, 4
"""Windows of half the side, by steps of half of that, are blurred to a quarter of the pixels: of the choices tried (quarters,
blur by 4 to 16, the tile's other half instead of a blur) what best told the anomalous part of half-anomalous tiles."""
_AT_ONCE = 7


def relevance(classifier: Classifier, images: Tensor, target: int) -> tuple[Tensor, str]:
    """Return how much each place of the tiles speaks for a class, and by which method that was found.

    Of an ensemble the members' maps are joined by how much each counts. Networks that learn from pixels are asked by
    Grad-CAM. Networks on fixed statistics of the whole tile have no map to weigh: if there are no others, parts of the tile
    are blurred in turn, and what counts is how much less it then is of the class. With ``centre="crop"`` what was cut off
    is 0.

    Parameters
    ----------
    classifier : Classifier
    images : (B, H, W, 3) uint8 tensor on its device
    target : int
        The class.

    Returns
    -------
    relevance : (B, H, W) float32 tensor in [0, 1]
        1 at the strongest; 0 throughout if nothing speaks for the class.
    method : {"Grad-CAM", "Occlusion"}
    """
    members = list(zip(classifier.members, classifier.shares.tolist(), strict=True))
    learning = [(member, share) for member, share in members if not member.fine]
    with torch.no_grad():
        stack = classifier.stack(images)
    side = images.shape[1]
    seen = round(side * stack.shape[2] / (classifier.settings.input_px or side))
    edge = (side - seen) // 2
    total = torch.zeros(len(images), 1, side, side, device=images.device)
    for member, share in learning or members:
        member.eval()
        found = (_grad_cam if learning else _occlusion)(member, stack, target)
        found = found / found.amax((2, 3), keepdim=True).clamp_min(1e-12)
        total[:, :, edge : edge + seen, edge : edge + seen] += share * F.interpolate(found, (seen, seen), mode="bilinear")
    return (total / total.amax((2, 3), keepdim=True).clamp_min(1e-12))[:, 0], "Grad-CAM" if learning else "Occlusion"


def _grad_cam(member: TileNetwork, stack: Tensor, target: int) -> Tensor:
    from captum.attr import LayerGradCam  # slow to import, and few ask for it

    found: Tensor = LayerGradCam(member, member.body).attribute(stack, target=target, relu_attributions=True)
    return found.detach()


def _occlusion(member: TileNetwork, stack: Tensor, target: int) -> Tensor:
    from captum.attr import Occlusion

    channels, side = stack.shape[1:3]
    window = -(-side // _WINDOWS)
    step = -(-window // _OVERLAP)
    blurred = F.interpolate(F.adaptive_avg_pool2d(stack, -(-side // _BLUR)), (side, side), mode="bilinear")
    with torch.no_grad():
        lost: Tensor = Occlusion(member).attribute(
            stack,
            sliding_window_shapes=(channels, window, window),
            strides=(channels, step, step),
            baselines=blurred,
            target=target,
            perturbations_per_eval=_AT_ONCE,
        )
    return F.avg_pool2d(lost[:, :1].clamp_min(0), step, ceil_mode=True)  # one value per step: drawn smoothly
