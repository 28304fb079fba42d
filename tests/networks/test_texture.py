import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage.color import rgb2hed
from skimage.feature import local_binary_pattern

from napari_histoad.networks.texture import (
    TextureStatistics,
    _codes,
    _derivatives,
    _patterns,
    _responses,
    differences,
    window_moments,
)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    coarse = ndimage.zoom(rng.uniform(60, 240, (3, 12, 12, 3)), (1, 4, 4, 1), order=1)
    return coarse.clip(0, 255).astype(np.uint8)


def test_stains_are_those_of_colour_deconvolution_put_on_one_scale(images):
    found = TextureStatistics(48).stains(torch.from_numpy(images)).numpy()
    for image, planes in zip(images, found, strict=True):
        expected = rgb2hed(image)[..., :2].transpose(2, 0, 1)
        expected = (expected - expected.mean((1, 2), keepdims=True)) / expected.std((1, 2), keepdims=True)
        assert np.allclose(planes, expected, atol=0.02)


@pytest.mark.parametrize("sigma", [1, 2, 4])
def test_responses_equal_scipys(sigma):
    plane = np.random.default_rng(1).normal(size=(40, 40))
    filters = _derivatives(40, sigma)
    blobs, edges = _responses(torch.from_numpy(plane)[None].float(), filters, sigma)
    assert np.allclose(blobs[0], sigma**2 * ndimage.gaussian_laplace(plane, sigma), atol=0.02)
    assert np.allclose(edges[0], sigma * ndimage.gaussian_gradient_magnitude(plane, sigma), atol=0.01)


def test_patterns_equal_scikit_images():
    plane = np.random.default_rng(2).normal(size=(64, 64))
    ours = _patterns().argmax(1)[_codes(torch.from_numpy(plane)[None].float(), 1)[0].long()].numpy()
    found = np.histogram(ours, np.arange(11))[0] / ours.size
    codes = local_binary_pattern(np.round(plane * 1e6).astype(np.int64), 8, 1, "uniform")[1:-1, 1:-1]
    expected = np.histogram(codes, np.arange(11))[0] / codes.size
    # Theirs has no dead zone around the centre's value, which decides for few pixels of noise.
    assert np.allclose(found, expected, atol=0.03)


def test_differences_of_colours_are_nothing_on_grey_tiles_and_z_scores_on_others(images):
    grey = torch.from_numpy(np.repeat(images[..., :1], 3, axis=3))
    assert (differences(grey) == 0).all()
    planes = differences(torch.from_numpy(images))
    assert torch.allclose(planes.mean((2, 3)), torch.zeros(3, 3), atol=1e-4)
    assert ((planes.std((2, 3)) - 1).abs() < 0.05).all()


def test_a_paler_stain_changes_little(images):
    pale = np.round(255 * (images / 255.0) ** 0.8).astype(np.uint8)
    statistics = TextureStatistics(48)
    one, two = (statistics(torch.from_numpy(part)) for part in (images, pale))
    other = statistics(torch.from_numpy(np.random.default_rng(3).integers(0, 256, images.shape).astype(np.uint8)))
    assert (one - two).abs().mean() < 0.1 * (one - other).abs().mean()


def test_flat_tiles_give_numbers():
    assert TextureStatistics(32)(torch.full((2, 32, 32, 3), 240, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize(("side", "edges"), [(64, (0, 16, 32, 48, 64)), (50, (0, 12, 25, 38, 50))])
def test_moments_of_windows_are_those_of_the_cut_out_windows(side, edges):
    planes = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=(2, side, side)).astype(np.float32)) + 5
    found = window_moments(planes, 3, 4)
    assert found.shape == (2, 4, 3, 3)
    for plane, y, x in np.ndindex(2, 3, 3):
        window = planes[plane, edges[y] : edges[y + 2], edges[x] : edges[x + 2]].numpy().ravel()
        expected = [window.mean(), window.std(), stats.skew(window), stats.kurtosis(window, fisher=False)]
        assert found[plane, :, y, x].numpy() == pytest.approx(expected, rel=0.02, abs=0.01)


def test_windows_of_one_texture_agree_and_differ_where_it_does():
    rng = np.random.default_rng(1)
    tile = rng.integers(120, 200, (1, 128, 128, 3))
    network = TextureStatistics(128, 3)
    alike = network(torch.from_numpy(tile.astype(np.uint8)))
    assert alike.shape == (1, TextureStatistics.dimensions, 3, 3)
    tile[:, :, 64:] = np.repeat(np.repeat(tile[:, ::4, 64::4], 4, 1), 4, 2)  # coarser on the right
    other = network(torch.from_numpy(tile.astype(np.uint8)))
    spread = [(m[..., 0] - m[..., 2]).abs().mean().item() for m in (alike, other)]
    assert spread[1] > 3 * spread[0]
