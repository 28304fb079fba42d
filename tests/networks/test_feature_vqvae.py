import pytest
import torch

from napari_histoad.networks.feature_vqvae import FeatureVqVae, cell_features


def _blocks(sides):
    torch.manual_seed(0)
    return [torch.randn(2, channels, side, side) for channels, side in zip((16, 24, 40, 80, 112), sides, strict=True)]


def test_cell_features_are_mean_and_deviation_of_the_fine_blocks_and_the_coarse_ones():
    blocks = _blocks((112, 56, 28, 14, 14))
    cells = cell_features(blocks)
    assert cells.shape == (2, 320, 14, 14)
    inside = blocks[1][:, :, 4:8, 8:12].flatten(2)  # the pixels of block 1 in cell (1, 2)
    assert torch.allclose(cells[:, :24, 1, 2], inside.mean(2), atol=1e-5)
    assert torch.allclose(cells[:, 24:48, 1, 2], inside.std(2, correction=0), atol=1e-4)
    assert torch.equal(cells[:, 128:208], blocks[3])
    assert torch.equal(cells[:, 208:], blocks[4])


def test_cell_features_fit_sides_that_the_cells_do_not_divide():
    assert cell_features(_blocks((100, 50, 25, 13, 13))).shape == (2, 320, 13, 13)


@pytest.mark.parametrize("quantizer", ["ema", "vq", "fsq"])
def test_reconstruction_has_the_shape_of_the_features_and_the_picture_four_pixels_per_cell(quantizer):
    torch.manual_seed(0)
    network = FeatureVqVae(20, width=16, code_dim=8, codebook_size=8, quantizer=quantizer)
    features = torch.randn(2, 20, 5, 5)
    out = network(features)
    assert out.reconstruction.shape == features.shape
    assert out.picture.shape == (2, 3, 20, 20)
    assert 0 <= out.picture.min() <= out.picture.max() <= 1
    assert out.indices.shape == (2, 5, 5)
    ((out.reconstruction - features).square().mean() + out.loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.encoder.parameters())


def test_the_picture_does_not_train_the_reconstruction():
    torch.manual_seed(0)
    network = FeatureVqVae(20, width=16, code_dim=8, codebook_size=8)
    network(torch.randn(2, 20, 5, 5)).picture.sum().backward()
    assert all(p.grad is None for part in (network.encoder, network.decoder) for p in part.parameters())
    assert all(p.grad is not None for p in network.painter.parameters())
