"""Residual autoencoders without normalisation, the perceptual distance they are trained by, and WGAN critics.

Papers: Shvetsova et al. 2020 (arXiv:2006.13265, deep perceptual autoencoder and progressive growing), Tuluptceva et al. 2019
(arXiv:1909.05904, PIAD), He et al. 2016 (arXiv:1603.05027, pre-activation), Gulrajani et al. 2017 (arXiv:1704.00028, WGAN-GP).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "GrowingAutoencoder",
    "LayerOutputs",
    "PerceptualDistance",
    "PixelOutputs",
    "VectorAutoencoder",
    "gradient_penalty",
    "image_critic",
]

_SLOPE = 0.2
_PENALTY, _DRIFT = 10.0, 1e-3


class PreActivation(nn.Module):
    """x + conv(lrelu(conv(lrelu(x)))), with average pooling or nearest upsampling on both ways."""

    def __init__(self, wide_in: int, wide_out: int, resize: str = "") -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(wide_in, wide_out, 3, 1, 1), nn.Conv2d(wide_out, wide_out, 3, 1, 1)
        self.skip = nn.Identity() if wide_in == wide_out else nn.Conv2d(wide_in, wide_out, 1)
        steps = {"": nn.Identity(), "half": nn.AvgPool2d(2), "double": nn.Upsample(scale_factor=2)}
        self.resize: nn.Module = steps[resize]
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight, _SLOPE, mode="fan_out", nonlinearity="leaky_relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.leaky_relu(x, _SLOPE))
        return self.skip(self.resize(x)) + self.conv2(F.leaky_relu(self.resize(inner), _SLOPE))  # type: ignore[no-any-return]


class GrowingAutoencoder(nn.Module):
    """Autoencoder that halves the resolution once per stage and may be trained from the innermost stage outwards.

    Parameters
    ----------
    width : int
        Channels of all blocks.
    latent : int
        Channels of the latent.
    stages : int
        Number of stages: 3 give a latent of 8 × 8 for 64 px.
    """

    critic: nn.Module
    """Set by training with an adversary."""

    def __init__(self, width: int, latent: int, stages: int) -> None:
        super().__init__()
        self.stages = stages
        # Stage 0 is the innermost; each has its own layers from and to pixels.
        self.inward = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), PreActivation(width, width), PreActivation(width, width))
            for _ in range(stages)
        )
        self.down = nn.ModuleList(
            nn.Sequential(PreActivation(width, width, "half"), PreActivation(width, width)) for _ in range(stages)
        )
        self.to_latent, self.from_latent = PreActivation(width, latent), PreActivation(latent, width)
        self.up = nn.ModuleList(
            nn.Sequential(PreActivation(width, width), PreActivation(width, width, "double")) for _ in range(stages)
        )
        self.outward = nn.ModuleList(
            nn.Sequential(PreActivation(width, width), PreActivation(width, width), nn.Conv2d(width, 3, 3, 1, 1))
            for _ in range(stages)
        )

        for way in self.outward:
            # Without normalisation activations grow with depth: a small start gives grey rather than noise.
            last: nn.Conv2d = way[-1]  # type: ignore[index]
            nn.init.normal_(last.weight, std=1e-3)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def encode(self, pixels: Tensor, stage: int | None = None, alpha: float = 1.0) -> Tensor:
        """Return the latent of pixels (B, 3, S, S) in [-1, 1] at the resolution of a stage, by default the outermost.

        If ``alpha`` < 1, the layers of the stage before, on pixels of half the size, have the weight 1 - ``alpha``.
        """
        top = self.stages - 1 if stage is None else stage
        x = self.down[top](self.inward[top](pixels))
        if alpha < 1 and top:
            x = alpha * x + (1 - alpha) * self.inward[top - 1](F.avg_pool2d(pixels, 2))
        for k in range(top - 1, -1, -1):
            x = self.down[k](x)
        return self.to_latent(x)  # type: ignore[no-any-return]

    def decode(self, latent: Tensor, stage: int | None = None, alpha: float = 1.0) -> Tensor:
        """Return pixels (B, 3, S, S), about in [-1, 1]; they are not limited to it."""
        top = self.stages - 1 if stage is None else stage
        x = self.from_latent(latent)
        before = x
        for k in range(top + 1):
            before, x = x, self.up[k](x)
        pixels = self.outward[top](x)
        if alpha < 1 and top:
            pixels = alpha * pixels + (1 - alpha) * F.interpolate(self.outward[top - 1](before), scale_factor=2.0)
        return pixels  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor, stage: int | None = None, alpha: float = 1.0) -> Tensor:
        """Return the reconstruction of pixels in [-1, 1]."""
        return self.decode(self.encode(pixels, stage, alpha), stage, alpha)


class VectorAutoencoder(nn.Module):
    """Residual autoencoder with a latent vector.

    Parameters
    ----------
    widths : sequence of int
        Channels at each resolution, from the pixels inwards; each step halves the side.
    latent : int
        Length of the latent vector.
    side : int
        Side of the images, divisible by 2 to the power of the number of widths.
    """

    images: nn.Module
    latents: nn.Module
    """The critics, set by training."""

    def __init__(self, widths: Sequence[int], latent: int, side: int) -> None:
        super().__init__()
        inner = side // 2 ** len(widths)
        pairs = list(zip([widths[0], *widths[:-1]], widths, strict=True))
        self.encoder = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1),
            *[PreActivation(a, b, "half") for a, b in pairs],
            nn.LeakyReLU(_SLOPE),
            nn.Flatten(),
            nn.Linear(widths[-1] * inner**2, latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, widths[-1] * inner**2),
            nn.Unflatten(1, (widths[-1], inner, inner)),
            *[PreActivation(b, a, "double") for a, b in pairs[::-1]],
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(widths[0], 3, 3, 1, 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the reconstruction of pixels (B, 3, S, S) in [-1, 1]."""
        return self.decoder(self.encoder(pixels)).tanh()  # type: ignore[no-any-return]


def image_critic(widths: Sequence[int], side: int) -> nn.Module:
    """Return a critic of images (B, 3, S, S): residual blocks and one output."""
    inner = side // 2 ** len(widths)
    pairs = zip([widths[0], *widths[:-1]], widths, strict=True)
    return nn.Sequential(
        nn.Conv2d(3, widths[0], 3, 1, 1),
        *[PreActivation(a, b, "half") for a, b in pairs],
        nn.LeakyReLU(_SLOPE),
        nn.Flatten(),
        nn.Linear(widths[-1] * inner**2, 1),
    )


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Return the WGAN-GP loss of a critic and its estimate of the Wasserstein distance, to be shown."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    between = (share * real + (1 - share) * fake).requires_grad_()
    slope = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0].flatten(1).norm(dim=1)
    of_real, of_fake = critic(real), critic(fake)
    distance = of_real.mean() - of_fake.mean()
    return -distance + _PENALTY * (slope - 1).square().mean() + _DRIFT * of_real.square().mean(), distance


class PerceptualDistance(nn.Module):
    """Difference of two images in the features of a frozen encoder, relative to the features of the first one.

    f̂ = (f − μ)/σ per channel, with μ and σ constants of a layer; mean|f̂(x) − f̂(x̂)| / mean|f̂(x)|, averaged over the layers
    (arXiv:2006.13265, eq. 2 and 3).

    Parameters
    ----------
    layers : Module
        Takes pixels (B, 3, S, S) in [0, 1] and returns a list of features (B, C, h, w), one tensor per layer.
    widths : sequence of int
        Channels of each layer.
    outer, inner : sequence of int, optional
        Which layers are averaged for tiles of full size, default all; and for smaller ones, default the same. Deep
        layers are of little use for small tiles.
    """

    def __init__(
        self,
        layers: nn.Module,
        widths: Sequence[int],
        *,
        outer: Sequence[int] = (),
        inner: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._outer = outer or range(len(widths))
        self._inner = inner or self._outer
        self.layers = layers
        for k, width in enumerate(widths):
            self.register_buffer(f"mean{k}", torch.zeros(width, 1, 1))
            self.register_buffer(f"deviation{k}", torch.ones(width, 1, 1))

    def estimate(self, pixels: Tensor) -> None:
        """Set the constants from tiles (N, 3, S, S) in [0, 1]."""
        for k, features in enumerate(self.layers(pixels)):
            deviation, mean = torch.std_mean(features, dim=(0, 2, 3))
            getattr(self, f"mean{k}").copy_(mean[:, None, None])
            getattr(self, f"deviation{k}").copy_(deviation[:, None, None] + 1e-6)

    def forward(self, pixels: Tensor, reconstruction: Tensor, inner: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the distances (B,) of images (B, 3, S, S) in [0, 1] and their maps (B, h, w), of the last layer.

        Parameters
        ----------
        inner : float
            Share of the inner layers in the distance; the outer layers have the rest.
        """
        both: list[Tensor] = self.layers(torch.cat([pixels, reconstruction]))
        total, where = pixels.new_zeros(len(pixels)), pixels
        for k, features in enumerate(both):
            seen, expected = ((features - getattr(self, f"mean{k}")) / getattr(self, f"deviation{k}")).chunk(2)
            where = (seen - expected).abs().mean(1)
            share = (1 - inner) * (k in self._outer) / len(self._outer) + inner * (k in self._inner) / len(self._inner)
            total = total + share * where.mean((1, 2)) / seen.detach().abs().mean((1, 2, 3)).clamp_min(1e-6)
        return total, where


class PixelOutputs(nn.Module):
    """Pixels as the only features."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the pixels in a list."""
        return [pixels]


class LayerOutputs(nn.Module):
    """Outputs of some modules of a frozen sequence; the modules after the last of them are left out.

    Parameters
    ----------
    body : Sequential
    positions : tuple of int
        Positions of the modules, in ascending order.
    mean, std : (3, 1, 1) tensor, optional
        Subtracted from the pixels, and what they are divided by.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self, body: nn.Module, positions: tuple[int, ...], mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        super().__init__()
        modules = list(body.children())[: positions[-1] + 1]
        self.body, self._positions = nn.Sequential(*modules).requires_grad_(requires_grad=False), positions
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return features (B, C, h, w), one tensor per position, of pixels (B, 3, S, S) in [0, 1]."""
        x = pixels if self.mean is None or self.std is None else (pixels - self.mean) / self.std
        outputs = []
        for k, module in enumerate(self.body):
            x = module(x)
            if k in self._positions:
                outputs.append(x)
        return outputs
