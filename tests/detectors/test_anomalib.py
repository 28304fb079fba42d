"""anomalib's models; the large installation is tried by ``tox -e anomalib``."""

import importlib.util

import numpy as np
import pytest
import torch

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import create_detector, load_detector, save_detector
from napari_histoad.errors import EncoderError, SettingsError

needs_anomalib = pytest.mark.skipif(
    importlib.util.find_spec("anomalib") is None, reason="anomalib is not installed: tox -e anomalib"
)
MODELS = {
    "patchcore": {"backbone": "resnet18", "pre_trained": False},
    "padim": {"pre_trained": False},
    "reverse_distillation": {"backbone": "resnet18", "pre_trained": False},
}


def _tiles(n, seed=0):
    return np.random.default_rng(seed).integers(120, 230, (n, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)


def test_without_the_extra_it_says_how_to_install_it(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "anomalib" else real(name, *rest))
    with pytest.raises(SettingsError, match=r"not installed.*napari-histoad\[anomalib\]"):
        create_detector("anomalib:patchcore")


@needs_anomalib
@pytest.mark.parametrize("model", MODELS)
def test_models_keep_the_contract_and_come_back_from_the_file(model, tmp_path):
    torch.manual_seed(0)
    detector = create_detector(f"anomalib:{model}", tile_px=64, options=MODELS[model], epochs=1)
    assert detector.name == f"anomalib:{model}"
    detector.fit(_tiles(40))
    images = torch.from_numpy(_tiles(5, seed=1))
    with torch.inference_mode():
        before = detector.score(images)
    assert before.score.shape == (5,)
    assert before.score.isfinite().all()
    assert before.error_map.shape[0] == 5
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    again = load_detector(save_detector(detector, tmp_path / "d.safetensors"))
    with torch.inference_mode():
        assert torch.equal(again.score(images).score, before.score)
    if model != "reverse_distillation":  # one epoch teaches it nothing
        noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8))
        with torch.inference_mode():
            assert detector.score(noise).score.min() > before.score.max()


@needs_anomalib
def test_unknown_models_options_and_missing_weights_are_said():
    with pytest.raises(SettingsError, match="no model named 'x'; known are .*patchcore"):
        create_detector("anomalib:x")
    with pytest.raises(SettingsError, match="surprise"):
        create_detector("anomalib:padim", tile_px=64, options={"surprise": 1, "pre_trained": False}).fit(_tiles(20))
    with pytest.raises(EncoderError, match="--fetch resnet18"):
        create_detector("anomalib:padim", tile_px=64).fit(_tiles(20))
