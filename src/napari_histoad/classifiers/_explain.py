"""Relevance of each place in a tile for a class: Grad-CAM by captum, or class activation maps.

Papers: Selvaraju et al. 2016 (arXiv:1610.02391, Grad-CAM); Zhou et al. 2015 (arXiv:1512.04150, class activation maps).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_histoad.networks.classifier import KernelHead

if TYPE_CHECKING:
    from torch import Tensor

    from napari_histoad.classifiers._base import Classifier
    from napari_histoad.networks.classifier import TileNetwork


def relevance(classifier: Classifier, images: Tensor, target: int) -> tuple[Tensor, str]:
    """Return the relevance of each place in the tiles for a class, and the method.

    The maps of an ensemble are averaged by the weights of its networks. Networks that are trained on pixels use Grad-CAM. If
    there are none, the class activation map is used: the output of a support vector machine is the mean over windows of the
    tile, so the contribution of each window is exact. With ``centre="crop"`` the relevance is 0 outside the crop.

    Parameters
    ----------
    classifier : Classifier
    images : (B, H, W, 3) uint8 tensor on its device
    target : int
        Index of the class.

    Returns
    -------
    relevance : (B, H, W) float32 tensor in [0, 1]
        1 at the maximum of each tile; 0 everywhere if no place is relevant for the class.
    method : {"Grad-CAM", "Class activation"}
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
        found = (_grad_cam if learning else _activation)(member, stack, target)
        found = found / found.amax((2, 3), keepdim=True).clamp_min(1e-12)
        total[:, :, edge : edge + seen, edge : edge + seen] += share * F.interpolate(found, (seen, seen), mode="bilinear")
    return (total / total.amax((2, 3), keepdim=True).clamp_min(1e-12))[:, 0], "Grad-CAM" if learning else "Class activation"


def _grad_cam(member: TileNetwork, stack: Tensor, target: int) -> Tensor:
    from captum.attr import LayerGradCam  # slow to import, and rarely used

    found: Tensor = LayerGradCam(member, member.body).attribute(stack, target=target, relu_attributions=True)
    return found.detach()


def _activation(member: TileNetwork, stack: Tensor, target: int) -> Tensor:
    assert isinstance(member.head, KernelHead)
    with torch.no_grad():
        cells = member.head.cells(member.body(stack))[:, target : target + 1].clamp_min(0)
        if cells.shape[2] == 1:
            return cells
        # Windows overlap by half: each quarter of the side gets the mean of the windows that contain it.
        spread = cells.new_ones(1, 1, 2, 2)
        return F.conv_transpose2d(cells, spread) / F.conv_transpose2d(torch.ones_like(cells), spread)
