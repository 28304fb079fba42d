"""VQ-VAE with convolutional or transformer encoder and decoder.

Papers: van den Oord et al. 2017 (arXiv:1711.00937, VQ-VAE), Yu et al. 2021 (arXiv:2110.04627, ViT-VQGAN),
Razavi et al. 2019 (arXiv:1906.00446, EMA codebook), Mentzer et al. 2023 (arXiv:2309.15505, FSQ).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, VectorQuantize

__all__ = ["CodebookNetwork", "VqVae", "VqVaeOutput", "perplexity"]

CODE_DIM = 64
COMMITMENT = 0.25
FSQ_LEVELS = (8, 8, 8)


class VqVaeOutput(NamedTuple):
    """Outputs for images (B, 3, S, S) and a patch size p.

    Attributes
    ----------
    reconstruction : (B, 3, S, S) in [0, 1]
    latent : (B, 64, S/p, S/p)
        Before quantisation.
    code : (B, 64, S/p, S/p)
        The nearest code, without the straight-through gradient.
    indices : (B, S/p, S/p) int64
        Rows of the codes in the codebook.
    loss : ()
        Codebook and commitment terms; 0 in evaluation.
    """

    reconstruction: Tensor
    latent: Tensor
    code: Tensor
    indices: Tensor
    loss: Tensor


class Residual(nn.Module):
    """x + conv1(relu(conv3(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class ConvEncoder(nn.Module):
    """Mirror of `ConvDecoder`: log2(p) strided convolutions, two residual blocks, conv3 to the code dimension."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        widths = _widths(patch, width)
        downs: list[nn.Module] = []
        for wide_in, wide_out in zip([3, *widths[::-1][:-1]], widths[::-1], strict=True):
            downs += [nn.Conv2d(wide_in, wide_out, 4, 2, 1), nn.ReLU()]
        self.body = nn.Sequential(
            *downs[:-1], Residual(width), Residual(width), nn.ReLU(), nn.Conv2d(width, CODE_DIM, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


class ConvDecoder(nn.Module):
    """conv3, two residual blocks, log2(p) transposed convolutions (k4, s2, p1)."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        widths = _widths(patch, width)
        ups: list[nn.Module] = []
        for wide_in, wide_out in zip(widths, [*widths[1:], 3], strict=True):
            ups += [nn.ReLU(), nn.ConvTranspose2d(wide_in, wide_out, 4, 2, 1)]
        self.body = nn.Sequential(nn.Conv2d(CODE_DIM, width, 3, padding=1), Residual(width), Residual(width), *ups)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)  # type: ignore[no-any-return]


def _widths(patch: int, width: int) -> list[int]:
    """Return the channels from the latent grid outwards, halved towards the pixels, where the maps are large."""
    return [max(width // 2 ** max(0, k - 1), 16) for k in range(int(math.log2(patch)))]


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).reshape(b, n, d)), self.dropout, self.training)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ViTEncoder(nn.Module):
    """Patches, learned positions, transformer blocks, ReLU, conv1 to the code dimension. No class token."""

    def __init__(self, patch: int, width: int, depth: int, heads: int, grid: int, dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, grid * grid, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(depth)])
        self.out = nn.Conv2d(width, CODE_DIM, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        b, d, h, w = x.shape
        x = self.blocks(x.flatten(2).transpose(1, 2) + self.position)
        return self.out(F.relu(x).transpose(1, 2).reshape(b, d, h, w))  # type: ignore[no-any-return]


class ViTDecoder(nn.Module):
    """conv1, positions, transformer blocks, ReLU, one transposed convolution with kernel = stride = p."""

    def __init__(self, patch: int, width: int, depth: int, heads: int, grid: int, dropout: float) -> None:
        super().__init__()
        self.inward = nn.Conv2d(CODE_DIM, width, 1)
        self.position = nn.Parameter(torch.randn(1, grid * grid, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, heads, dropout) for _ in range(depth)])
        self.out = nn.ConvTranspose2d(width, 3, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(x)
        b, d, h, w = x.shape
        x = self.blocks(x.flatten(2).transpose(1, 2) + self.position)
        return self.out(F.relu(x).transpose(1, 2).reshape(b, d, h, w))  # type: ignore[no-any-return]


class CodebookNetwork(nn.Module):
    """A network whose latent is replaced, cell by cell, by the nearest code of a codebook.

    Parameters
    ----------
    quantizer : {"vq", "ema", "fsq"}
        Plain VQ (codebook MSE + 0.25 commitment MSE, uniform init ±√(3/K)), EMA updates with k-means start and
        revival of dead codes, or finite scalar quantisation with 8 × 8 × 8 levels.
    codebook_size : int
        Number of codes K; not used by FSQ.
    code_dim : int
        Number of channels D of latent and codes.
    """

    def __init__(self, quantizer: str, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.quantizer: nn.Module
        self.kind = quantizer
        if quantizer == "fsq":
            self.quantizer = FSQ(list(FSQ_LEVELS), dim=code_dim)
            self.codebook_size = math.prod(FSQ_LEVELS)
        else:
            plain = quantizer == "vq"
            self.quantizer = VectorQuantize(
                code_dim,
                codebook_size,
                learnable_codebook=plain,
                ema_update=not plain,
                kmeans_init=not plain,
                threshold_ema_dead_code=0 if plain else 2,
                decay=0.95,
                commitment_weight=0.0,
                rotation_trick=False,
            )
            self.codebook_size = codebook_size
            if plain:
                bound = math.sqrt(3 / codebook_size)
                with torch.no_grad():
                    self.quantizer.codebook = torch.empty(codebook_size, code_dim).uniform_(-bound, bound)

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (code with straight-through gradient, code, index, loss)."""
        tokens = latent.float().permute(0, 2, 3, 1)
        b, h, w, d = tokens.shape
        flat = tokens.reshape(b, h * w, d)
        # The nearest code depends on small differences: never in reduced precision.
        with torch.autocast(latent.device.type, enabled=False):
            if self.kind == "fsq":
                passed, index = self.quantizer(flat)
                loss = flat.new_zeros(())
                code = passed.detach()
            else:
                passed, index, _ = self.quantizer(flat)
                code = self.quantizer.get_codes_from_indices(index)  # type: ignore[operator]
                loss = COMMITMENT * F.mse_loss(flat, code.detach())
                if self.kind == "vq":
                    loss = loss + F.mse_loss(code, flat.detach())
        to_map = (b, h, w, d)
        return (
            passed.reshape(to_map).permute(0, 3, 1, 2),
            code.reshape(to_map).permute(0, 3, 1, 2),
            index.reshape(b, h, w),
            loss,
        )


class VqVae(CodebookNetwork):
    """Encoder, quantiser and decoder; pixels in [0, 1] in and out.

    Parameters
    ----------
    tile_px : int
        Input side S, a multiple of ``patch``.
    patch : int
        Pixels per latent cell p, a power of two.
    width, depth, heads : int
        Channels D, transformer blocks L, attention heads; the convolutional parts use the width only.
    encoder, decoder : {"conv", "vit"}
    quantizer, codebook_size
        See `CodebookNetwork`.
    """

    def __init__(
        self,
        *,
        tile_px: int,
        patch: int,
        width: int,
        depth: int = 0,
        heads: int = 1,
        encoder: str = "conv",
        decoder: str = "conv",
        quantizer: str = "ema",
        codebook_size: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(quantizer, codebook_size, CODE_DIM)
        grid = tile_px // patch
        transformer = (patch, width, depth, heads, grid, dropout)
        self.encoder: nn.Module = ViTEncoder(*transformer) if encoder == "vit" else ConvEncoder(patch, width)
        self.decoder: nn.Module = ViTDecoder(*transformer) if decoder == "vit" else ConvDecoder(patch, width)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the latent (B, 64, S/p, S/p) of pixels (B, 3, S, S) in [0, 1]."""
        return self.encoder(pixels)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> VqVaeOutput:
        """Return reconstruction, latent, code, index and quantisation loss."""
        latent = self.encode(pixels)
        passed, code, index, loss = self.quantize(latent)
        reconstruction = torch.sigmoid(self.decoder(passed.to(latent.dtype)).float())
        return VqVaeOutput(reconstruction, latent.float(), code, index, loss)


def perplexity(indices: Tensor, codebook_size: int) -> Tensor:
    """Return exp(entropy) of the use of codes: 1 if one code is used alone, ``codebook_size`` if all are used equally."""
    share = torch.bincount(indices.reshape(-1), minlength=codebook_size).float()
    share = share / share.sum()
    return torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum())
