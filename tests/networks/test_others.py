import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import hed2rgb, rgb2hed

from napari_histoad.networks.augment import colour_jitter, resized_crop, stain_jitter, turn
from napari_histoad.networks.autoencoder import ConvAutoencoder, DenseAutoencoder, VggAutoencoder
from napari_histoad.networks.encoder import contrast
from napari_histoad.networks.wide_resnet import WideResNet


def _count(network):
    return sum(p.numel() for p in network.parameters())


def test_latents_and_parameters_of_the_convolutional_autoencoder():
    network = ConvAutoencoder()
    rebuilt, latent = network(torch.rand(1, 3, 128, 128))
    assert latent.shape == (1, 16, 16, 16)
    assert rebuilt.shape == (1, 3, 128, 128)
    # conv3×3 of 3 → 64 → 32 → 16, and back 16 → 16 → 32 → 64 → 3.
    widths = [(3, 64), (64, 32), (32, 16), (16, 16), (16, 32), (32, 64), (64, 3)]
    assert _count(network) == sum(9 * a * b + b for a, b in widths)


def test_latents_and_parameters_of_the_vgg16_autoencoder():
    network = VggAutoencoder()
    rebuilt, latent = network(torch.rand(1, 3, 224, 224))
    assert latent.shape == (1, 7, 7, 7)
    assert rebuilt.shape == (1, 3, 224, 224)
    assert _count(network.encoder) == 14_714_688 + 512 * 7 + 7  # VGG16 without its classifier, and the 1×1


@pytest.mark.parametrize("convolutional", [True, False])
def test_codes_of_the_dense_autoencoder(convolutional):
    network = DenseAutoencoder(32, 2, convolutional=convolutional)
    rebuilt, code = network(torch.rand(3, 3, 32, 32))
    assert code.shape == (3, 2)
    assert rebuilt.shape == (3, 3, 32, 32)


def test_the_size_of_wrn_16_8():
    assert 10.9e6 < _count(WideResNet(10, 16, 8)) < 11.0e6  # "WRN-16-8: 11.0M" in arXiv:1605.07146, table 4


def test_contrast_is_the_loss_computed_by_hand():
    a, b = torch.randn(3, 4), torch.randn(3, 4)
    z = F.normalize(torch.cat([a, b]), dim=1).numpy()
    likeness = np.exp(z @ z.T / 0.2)
    expected = np.mean([-np.log(likeness[i, (i + 3) % 6] / (likeness[i].sum() - likeness[i, i])) for i in range(6)])
    assert float(contrast(a, b)["loss"]) == pytest.approx(expected, rel=1e-4)
    assert contrast(a, a)["accuracy"] == 1


def test_stain_jitter_scales_the_stains_only():
    torch.manual_seed(0)
    image = np.array([[[180, 120, 170], [90, 70, 140]], [[230, 180, 210], [200, 90, 150]]], np.uint8)
    pixels = torch.from_numpy(image / 255.0).float().permute(2, 0, 1)[None]
    assert torch.allclose(stain_jitter(pixels, 0.0), pixels, atol=2e-3)
    changed = stain_jitter(pixels, 0.3)[0].permute(1, 2, 0).numpy()
    assert np.abs(changed - image / 255).max() > 0.01
    # In scikit-image's terms: what changed is affine in each stain.
    before, after = rgb2hed(image).reshape(-1, 3), rgb2hed((changed * 255).clip(0, 255) / 255).reshape(-1, 3)
    assert np.abs(hed2rgb(before.reshape(2, 2, 3)) - image / 255).max() < 0.05
    assert np.corrcoef(before[:, 0], after[:, 0])[0, 1] > 0.99


def test_random_changes_keep_range_and_shape():
    torch.manual_seed(0)
    pixels = torch.rand(6, 3, 40, 40)
    for changed in (colour_jitter(pixels), stain_jitter(pixels, 0.2), turn(pixels)):
        assert changed.shape == pixels.shape
        assert changed.min() >= 0
        assert changed.max() <= 1
    assert resized_crop(pixels, 24, 0.3).shape == (6, 3, 24, 24)
    whole = resized_crop(pixels, 40, 1.0)
    for before, after in zip(pixels, whole, strict=True):  # turned, perhaps mirrored, but whole
        ways = [w for k in range(4) for w in (before.rot90(k, (1, 2)), before.flip(2).rot90(k, (1, 2)))]
        assert min((after - w).abs().max() for w in ways) < 1e-3
