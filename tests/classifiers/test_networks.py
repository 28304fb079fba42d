import numpy as np
import pytest
import safetensors.torch
import torch

from napari_histoad.classifiers import NETWORKS, build_network
from napari_histoad.detectors._timm import import_timm
from napari_histoad.errors import EncoderError, SettingsError
from napari_histoad.networks.classifier import TextureBody
from napari_histoad.networks.texture import TextureStatistics


@pytest.mark.parametrize("name", [*NETWORKS, "test_vit.r160_in1k", "test_convnext.r160_in1k"])
@pytest.mark.parametrize(("channels", "classes"), [(3, 2), (7, 4)])
def test_build_network_accepts_any_channels_and_returns_a_map_and_logits(name, channels, classes):
    network = build_network(name, channels, classes, 96).eval()
    stack = torch.rand(2, channels, 96, 96)
    assert network(stack).shape == (2, classes)
    assert network.body(stack).ndim == 4


def test_base_cnn_has_the_parameters_of_the_original():
    network = build_network("base_cnn", 3, 2, 32)
    assert sum(p.numel() for p in network.parameters()) == 159_170
    assert build_network("base_cnn", 3, 2, 96).head[1].in_features == 12_800


def test_attention_weighs_the_centre_and_learns_by_how_much():
    torch.manual_seed(0)
    network = build_network("separable_cnn", 3, 2, 96, attention=True).eval()
    weights = network.attention(torch.ones(1, 1, 9, 9))[0, 0].detach()
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    assert weights[4, 4] == weights.max() > 1.5 * weights[0, 0]
    network(torch.rand(1, 3, 96, 96)).sum().backward()
    assert network.attention.log_width.grad.abs() > 0


def test_pretrained_weights_are_kept_and_the_first_convolution_adapted(tmp_path):
    timm = import_timm()
    torch.manual_seed(0)
    file = tmp_path / "resnet18.safetensors"
    state = timm.create_model("resnet18").state_dict()
    safetensors.torch.save_file(state, file)
    body = build_network("resnet18", 7, 2, 64, pretrained=True, weights=file).body.model
    assert torch.equal(body.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])
    assert body.conv1.weight.shape == (64, 7, 7, 7)
    # What three equal channels gave, seven equal channels give.
    assert torch.allclose(body.conv1.weight.sum(1), state["conv1.weight"].sum(1), atol=0.2)


def test_build_network_explains_what_it_cannot_build():
    with pytest.raises(SettingsError, match="at least 86 px, these have 64"):
        build_network("separable_cnn", 3, 2, 64)
    with pytest.raises(SettingsError, match="no pretrained weights of vggnet"):
        build_network("vggnet", 3, 2, 64, pretrained=True)
    with pytest.raises(EncoderError, match="no model named 'resnet1008'"):
        build_network("resnet1008", 3, 2, 64)
    with pytest.raises(EncoderError, match="patches of 16 px"):
        build_network("test_vit.r160_in1k", 3, 2, 72)
    with pytest.raises(EncoderError, match="not on this machine"):
        build_network("resnet18", 3, 2, 64, pretrained=True)


def test_shares_of_levels_are_those_of_the_pixels_and_tell_a_paler_tile_apart():
    rng = np.random.default_rng(0)
    dark, other = rng.integers(0, 200, (2, 3, 64, 64)).astype(np.float32) / 255
    images = np.stack([dark, dark + 50 / 255, other])
    body = TextureBody(3, 64)
    measured = body.measure((torch.from_numpy(images) - body.mean) / body.std)
    assert measured.shape == (3, body.width, 3, 3)
    first = TextureStatistics.dimensions
    shares = measured[:, first : first + 45].reshape(3, 9, 5, 3, 3)
    # Of red, above 0.3, soft by 0.05 to both sides, in the first window.
    expected = np.clip((images[:, 0, :32, :32] - 0.3) * 10 + 0.5, 0, 1).mean((1, 2))
    assert np.allclose(shares[:, 2, 0, 0, 0], expected, atol=1e-3)
    assert (shares[0] - shares[1]).abs().mean() > 5 * (shares[0] - shares[2]).abs().mean()
