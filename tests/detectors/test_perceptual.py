import pytest
import torch

from napari_histoad.detectors import _perceptual
from napari_histoad.detectors.perceptual_autoencoder import PerceptualAutoencoderSettings
from napari_histoad.networks.encoder import TimmEncoder


@pytest.mark.parametrize(("growing", "depths"), [(False, [23]), (True, [14, 23])])
def test_a_growing_network_judges_small_tiles_by_the_layer_before(growing, depths, monkeypatch):
    """relu3_2 before relu4_2, see arXiv:2006.13265; a VGG19 each of whose layers adds 1 tells which they are."""

    class Plus(torch.nn.Module):
        def forward(self, x):
            return x + 1

    vgg = torch.nn.ModuleDict({"features": torch.nn.Sequential(*[Plus() for _ in range(37)])})
    encoder = TimmEncoder(vgg, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 64)
    monkeypatch.setattr(_perceptual, "open_encoder", lambda *_: (encoder, None))
    settings = PerceptualAutoencoderSettings(features="vgg19.tv_in1k", growing=growing)
    distance, _ = _perceptual.open_distance(settings, growing=growing)
    found = distance.layers(torch.zeros(1, 3, 2, 2))
    assert [int(part[0, 0, 0, 0]) for part in found] == depths
