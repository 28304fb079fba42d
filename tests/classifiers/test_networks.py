import pytest
import safetensors.torch
import torch

from napari_histoad.classifiers import NETWORKS, build_network
from napari_histoad.detectors._backbone import import_timm
from napari_histoad.errors import BackboneError, SettingsError


@pytest.mark.parametrize("name", [*NETWORKS, "test_vit.r160_in1k", "test_convnext.r160_in1k"])
@pytest.mark.parametrize(("channels", "classes"), [(3, 2), (7, 4)])
def test_every_network_takes_any_channels_and_gives_a_map_and_logits(name, channels, classes):
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


def test_what_cannot_be_built_is_said():
    with pytest.raises(SettingsError, match="86 px or more, these are 64"):
        build_network("separable_cnn", 3, 2, 64)
    with pytest.raises(SettingsError, match="no pretrained weights of vggnet"):
        build_network("vggnet", 3, 2, 64, pretrained=True)
    with pytest.raises(BackboneError, match="no model named 'resnet1008'"):
        build_network("resnet1008", 3, 2, 64)
    with pytest.raises(BackboneError, match="patches of 16 px"):
        build_network("test_vit.r160_in1k", 3, 2, 72)
    with pytest.raises(BackboneError, match="not on this machine"):
        build_network("resnet18", 3, 2, 64, pretrained=True)
