import math

import pytest
import torch

from napari_histoad.detectors._pixel_vqvae import PRESETS
from napari_histoad.networks import VqVae
from napari_histoad.networks.vqvae import perplexity


@pytest.mark.parametrize(("preset", "grid"), [("vit-32", 32), ("vit-64", 64), ("conv-32", 32)])
def test_presets_have_the_latent_grids_of_their_names(preset, grid):
    network = VqVae(tile_px=256, **PRESETS[preset]).eval()
    with torch.inference_mode():
        # The quantiser's k-means start needs one pass in training mode; evaluation must not touch the codebook.
        latent = network.encode(torch.rand(1, 3, 256, 256))
    assert latent.shape == (1, 64, grid, grid)


@pytest.mark.parametrize("quantizer", ["vq", "ema", "fsq"])
@pytest.mark.parametrize("preset", PRESETS)
def test_reconstructions_keep_shape_and_range_and_gradients_reach_the_encoder(preset, quantizer):
    torch.manual_seed(0)
    network = VqVae(tile_px=64, quantizer=quantizer, **PRESETS[preset])
    pixels = torch.rand(2, 3, 64, 64)
    out = network(pixels)
    assert out.reconstruction.shape == pixels.shape
    assert 0 <= out.reconstruction.min() <= out.reconstruction.max() <= 1
    assert out.indices.max() < network.codebook_size
    ((out.reconstruction - pixels).square().mean() + out.loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.encoder.parameters())


def test_codes_are_the_nearest_by_squared_distance():
    torch.manual_seed(0)
    network = VqVae(tile_px=32, patch=8, width=16, codebook_size=32, quantizer="vq").eval()
    latent = torch.randn(2, 64, 4, 4) * 0.2
    with torch.no_grad():
        _, code, index, loss = network.quantize(latent)
    book = network.quantizer.codebook.detach()
    flat = latent.permute(0, 2, 3, 1).reshape(-1, 64)
    nearest = torch.cdist(flat, book).argmin(1)
    assert torch.equal(index.reshape(-1), nearest)
    assert torch.allclose(code.permute(0, 2, 3, 1).reshape(-1, 64), book[nearest])
    assert loss.item() == pytest.approx(1.25 * float((flat - book[nearest]).square().mean()), rel=1e-4)


def test_plain_codebook_starts_uniform_within_its_bound():
    book = VqVae(tile_px=32, patch=8, width=16, codebook_size=48, quantizer="vq").quantizer.codebook
    assert book.shape == (48, 64)
    assert 0.9 * math.sqrt(3 / 48) < book.abs().max() <= math.sqrt(3 / 48)


def test_vit_sizes_follow_the_recipe():
    network = VqVae(tile_px=256, **PRESETS["vit-32"])
    block = sum(p.numel() for p in network.encoder.blocks[0].parameters())
    d = 256
    assert block == 4 * d * d + 4 * d + 8 * d * d + 5 * d + 4 * d  # attention, MLP, two norms
    assert len(network.encoder.blocks) == len(network.decoder.blocks) == 5
    assert network.encoder.position.shape == (1, 1024, 256)


def _count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("preset", "p", "d", "grid"), [("vit-32", 8, 256, 32), ("vit-64", 4, 128, 64)])
def test_transformers_have_the_parameters_of_the_recipe(preset, p, d, grid):
    """Patches to D, positions, five blocks of 12 D² + 13 D, 1 x 1 to 64; the decoder is its mirror, or convolutions."""
    network = VqVae(tile_px=256, **PRESETS[preset])
    blocks, positions = 5 * (12 * d * d + 13 * d), grid * grid * d
    assert _count(network.encoder) == (3 * p * p * d + d) + positions + blocks + (d * 64 + 64)
    if preset == "vit-32":
        assert _count(network.decoder) == (64 * d + d) + positions + blocks + (d * 3 * p * p + 3)


def test_perplexity_counts_codes_in_use():
    assert perplexity(torch.zeros(100, dtype=torch.long), 8) == pytest.approx(1)
    assert perplexity(torch.arange(800) % 8, 8) == pytest.approx(8)
