"""The VQ-VAE of features; the contract of all detectors is tested in ``test_contract.py``."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import create_detector, read_header, save_detector
from napari_histoad.errors import SettingsError

SIDE = 64


def _textured(count, amplitude, seed=0):
    """Return grey tiles with noise in blocks of 4 px."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, amplitude, (count, SIDE // 4, SIDE // 4, 1))
    return (170 + coarse.repeat(4, 1).repeat(4, 2).repeat(3, 3)).clip(0, 255).astype(np.uint8)


def _fitted(images, **settings):
    torch.manual_seed(0)
    detector = create_detector("vqvae", tile_px=SIDE, **settings)
    detector.prepare(images)
    detector.network.train()
    optimizers = detector.optimizers()
    for step in range(12):
        first = step % 4 * 8
        detector.learn(torch.from_numpy(images[first : first + 8]), optimizers, lambda loss: loss.backward())
    detector.network.eval()
    detector.fit(images)
    return detector


@pytest.fixture(scope="module")
def detector():
    return _fitted(_textured(40, 25))


def _scores(detector, images):
    with torch.inference_mode():
        return detector.score(torch.from_numpy(images)).score


@pytest.mark.parametrize("amplitude", [2, 90])
def test_plainer_and_richer_tiles_than_the_normal_ones_score_higher(detector, amplitude):
    """An error of pixels is only high for richer ones."""
    assert _scores(detector, _textured(8, amplitude, 1)).min() > _scores(detector, _textured(20, 25, 2)).median()


def test_relative_error_of_a_tile_is_proportional_to_the_mean_of_its_error_map():
    detector = _fitted(_textured(40, 25), error="relative")
    with torch.inference_mode():
        found = detector.score(torch.from_numpy(_textured(3, 25, 1)))
    assert found.error_map.shape == (3, 8, 8)  # tiles are enlarged to 128 px, a cell has 16 px of these
    ratio = found.score / found.error_map.mean((1, 2))
    assert torch.allclose(ratio, ratio[:1], rtol=1e-4)


def test_detector_file_names_the_encoder_and_does_not_contain_it(detector, tmp_path):
    detector.calibration = Calibration.from_scores(np.arange(20))
    path = save_detector(detector, tmp_path / "d.safetensors")
    assert read_header(path).backbone.name == "efficientnet-lite0"
    assert not [name for name in load_file(path) if name.startswith("encoder.")]


@pytest.mark.parametrize("settings", [{"target": "pixels"}, {"preset": "vit-32"}])
def test_target_or_a_preset_chooses_the_network_of_pixels(settings):
    detector = create_detector("vqvae", tile_px=SIDE, **settings)
    assert (detector.name, detector.settings.target) == ("vqvae", "pixels")
    assert detector.backbone is None


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"target": "colours"}, "'features' or 'pixels'"),
        ({"error": "ssim"}, "'fused', 'relative' or 'residuals'"),
        ({"target": "pixels", "error": "fused"}, "'mean'"),
    ],
)
def test_settings_of_the_other_target_are_refused_with_the_known_ones(settings, known):
    with pytest.raises(SettingsError, match=known):
        create_detector("vqvae", **settings)
