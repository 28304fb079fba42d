"""Data augmentation that normal tissue tolerates: it has no preferred orientation, and stains vary from day to day."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from skimage.color import hed_from_rgb, rgb_from_hed
from torch import Tensor

__all__ = ["affine_jitter", "colour_jitter", "crop", "resized_crop", "stain_jitter", "turn"]

_DARKEST = 1 / 255


def crop(pixels: Tensor, side: int) -> Tensor:
    """Return the same random square of every tile, (B, 3, side, side)."""
    y, x = (int(torch.randint(n - side + 1, ())) for n in pixels.shape[2:])
    return pixels[:, :, y : y + side, x : x + side]


def turn(pixels: Tensor) -> Tensor:
    """Return the batch (B, C, S, S) randomly flipped and rotated by a multiple of 90°, in the same way for all tiles."""
    if torch.rand(()) < 0.5:
        pixels = pixels.flip(3)
    return pixels.rot90(int(torch.randint(4, ())), (2, 3))


def colour_jitter(pixels: Tensor, gain: float = 0.08, shift: float = 0.06) -> Tensor:
    """Return pixels (B, 3, H, W) in [0, 1] with small random changes of brightness and colour of each tile."""
    shape = (len(pixels), 3, 1, 1)
    gains = 1 + gain * (torch.rand(shape, device=pixels.device) - 0.5)
    shifts = shift * (torch.rand(shape, device=pixels.device) - 0.5)
    return (pixels * gains + shifts).clamp(0, 1).contiguous(memory_format=torch.channels_last)


def stain_jitter(pixels: Tensor, strength: float) -> Tensor:
    """Return pixels (B, 3, H, W) in [0, 1] with the haematoxylin and eosin of each tile changed at random.

    Tellez et al. 2018 (doi:10.1109/TMI.2018.2820199): each stain's density is scaled by 1 ± ``strength`` and shifted.
    """
    to_stains = torch.tensor(hed_from_rgb.copy(), dtype=pixels.dtype, device=pixels.device)
    to_colours = torch.tensor(rgb_from_hed.copy(), dtype=pixels.dtype, device=pixels.device)
    stains = -pixels.clamp_min(_DARKEST).log().movedim(1, -1) @ to_stains
    shape = (len(pixels), 1, 1, 3)
    gains = 1 + strength * (2 * torch.rand(shape, device=pixels.device) - 1)
    shifts = 0.1 * strength * (2 * torch.rand(shape, device=pixels.device) - 1)
    return (-((stains * gains + shifts) @ to_colours)).exp().clamp(0, 1).movedim(-1, 1)


def resized_crop(pixels: Tensor, side: int, least: float) -> Tensor:
    """Return a random square crop (B, 3, side, side) of at least a share of each tile, rotated and resized."""
    n = len(pixels)
    scale = (least + (1 - least) * torch.rand(n)).sqrt()
    angle = (2 * math.pi / 4) * torch.randint(4, (n,))
    mirror = 1 - 2 * torch.randint(2, (n,))
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * mirror * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * mirror * angle.sin(), scale * angle.cos()
    theta[:, :, 2] = (1 - scale[:, None]) * (2 * torch.rand(n, 2) - 1)
    grid = F.affine_grid(theta.to(pixels.device), [n, 3, side, side], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def affine_jitter(stack: Tensor, *, degrees: float = 20.0, shift: float = 0.1, shear: float = 0.2, zoom: float = 0.2) -> Tensor:
    """Return stacks (B, C, S, S), each randomly flipped, rotated, shifted, sheared and zoomed.

    Parameters
    ----------
    degrees, shift, shear, zoom : float
        Maximum angle in addition to a multiple of 90°, shift as a share of the side, tangent, and change of the size.
    """
    n = len(stack)

    def draw(most: float) -> Tensor:
        return most * (2 * torch.rand(n) - 1)

    angle = (2 * math.pi / 4) * torch.randint(4, (n,)) + torch.deg2rad(draw(degrees))
    size = 1 + draw(zoom)
    mirror = 1.0 - 2 * torch.randint(2, (n,))
    turn_by = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    lean = torch.eye(2).repeat(n, 1, 1)
    lean[:, 0, 1] = draw(shear)
    lean[:, :, 0] *= mirror[:, None]
    moved = torch.stack([draw(2 * shift), draw(2 * shift)], 1)
    theta = torch.cat([size[:, None, None] * (turn_by @ lean), moved[:, :, None]], 2)
    grid = F.affine_grid(theta.to(stack.device), list(stack.shape), align_corners=False)
    return F.grid_sample(stack, grid, padding_mode="reflection", align_corners=False)
