import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_histoad.networks.perceptual import GrowingAutoencoder, PerceptualDistance, VectorAutoencoder, gradient_penalty


def test_the_distance_is_the_one_computed_by_hand():
    """arXiv:2006.13265, eq. 2 and 3, for two layers: the pixels, and their means over 2 × 2."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(4, 3, 8, 8, generator=generator) for _ in range(2))
    distance = PerceptualDistance(lambda pixels: [pixels, F.avg_pool2d(pixels, 2)], [3, 3])
    distance.estimate(x)
    found, where = distance(x, y)
    expected = np.zeros(4)
    for layer in (lambda t: t.numpy(), lambda t: t.numpy().reshape(4, 3, 4, 2, 4, 2).mean((3, 5))):
        a, b = layer(x), layer(y)
        mean, deviation = a.mean((0, 2, 3), keepdims=True), a.std((0, 2, 3), keepdims=True, ddof=1)
        a, b = (a - mean) / (deviation + 1e-6), (b - mean) / (deviation + 1e-6)
        expected += np.abs(a - b).mean((1, 2, 3)) / np.abs(a).mean((1, 2, 3)) / 2
    assert np.allclose(found, expected, rtol=1e-4)
    assert where.shape == (4, 4, 4)
    assert torch.equal(distance(x, x)[0], torch.zeros(4))


def test_inner_layers_are_blended_with_the_outer_ones():
    layers = [lambda pixels: pixels, lambda pixels: F.avg_pool2d(pixels, 2)]
    x, y = torch.rand(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    alone = [PerceptualDistance(lambda pixels, layer=layer: [layer(pixels)], [3]) for layer in layers]
    both = PerceptualDistance(lambda pixels: [layer(pixels) for layer in layers], [3, 3], outer=(1,), inner=(0,))
    for distance in (*alone, both):
        distance.estimate(x)
    inner, outer = (distance(x, y)[0] for distance in alone)
    for share in (0.0, 0.25, 1.0):
        assert torch.allclose(both(x, y, share)[0], share * inner + (1 - share) * outer)


def test_the_denominator_passes_no_gradient():
    distance = PerceptualDistance(lambda pixels: [pixels], [3])
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    y = x.detach() + 0.1
    distance(x, y)[0].sum().backward()
    expected = torch.sign(x.detach() - y) / x[0].numel() / x.detach().abs().mean((1, 2, 3), keepdim=True)
    assert torch.allclose(x.grad, expected, rtol=1e-4)


@pytest.mark.parametrize(("stages", "side"), [(2, 16), (3, 8)])
def test_latent_grids_of_64_px_crops(stages, side):
    autoencoder = GrowingAutoencoder(width=4, latent=4, stages=stages)
    pixels = torch.rand(2, 3, 64, 64)
    assert autoencoder.encode(pixels).shape == (2, 4, side, side)
    assert autoencoder(pixels).shape == pixels.shape


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_is_faded_in_from_the_one_before(stage):
    torch.manual_seed(0)
    autoencoder = GrowingAutoencoder(width=4, latent=4, stages=3)
    torch.nn.init.normal_(autoencoder.outward[stage][-1].weight)
    torch.nn.init.normal_(autoencoder.outward[stage - 1][-1].weight)
    pixels = torch.rand(1, 3, 16 * 2**stage, 16 * 2**stage)
    with torch.no_grad():
        inner = F.interpolate(autoencoder(F.avg_pool2d(pixels, 2), stage - 1), scale_factor=2.0)
        assert torch.allclose(autoencoder(pixels, stage, 0.0), inner, atol=1e-5)
        assert torch.equal(autoencoder(pixels, stage, 1.0), autoencoder(pixels, stage))
        assert not torch.allclose(autoencoder(pixels, stage, 0.5), inner, atol=1e-3)


def test_the_latent_vector_of_piad():
    autoencoder = VectorAutoencoder((32, 32, 64, 64, 128), 128, 64)
    pixels = torch.rand(2, 3, 64, 64)
    assert autoencoder.encoder(pixels).shape == (2, 128)
    assert autoencoder(pixels).shape == pixels.shape
    assert autoencoder(pixels).abs().max() <= 1


def test_the_penalty_wants_a_slope_of_one():
    """For a linear critic w·x the penalty is 10 (|w| − 1)²."""
    real, fake = torch.randn(64, 5), torch.randn(64, 5) + 1
    for norm in (1.0, 3.0):
        judge = torch.nn.Linear(5, 1, bias=False)
        judge.weight.data = norm * F.normalize(torch.ones(1, 5))
        loss, distance = gradient_penalty(judge, real, fake)
        drift = 1e-3 * judge(real).square().mean()
        assert torch.allclose(loss, -distance + 10 * (norm - 1) ** 2 + drift, atol=1e-3)
