"""What is written as ONNX computes what the detector does, or is not written."""

import importlib.util

import numpy as np
import onnxruntime
import pytest
import torch

from napari_histoad.detectors import create_detector, export_onnx, load_detector, starter_path
from napari_histoad.errors import OutputError, SettingsError

SIDE = 64


def _fitted(name, **settings):
    detector = create_detector(name, tile_px=SIDE, **settings)
    images = _tiles(24, SIDE, seed=9)
    detector.prepare(images)
    detector.fit(images)
    return detector


def _tiles(n, side, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), np.uint8)


def _agree(file, detector, images):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        wanted = detector.score(torch.from_numpy(images))
    found = dict(zip((o.name for o in session.get_outputs()), session.run(None, {"images": images}), strict=True))
    for name, values in found.items():
        expected = getattr(wanted, name).float().numpy()
        assert values.shape == expected.shape
        assert np.allclose(values, expected, rtol=1e-3, atol=1e-5)
    return session, set(found)


def test_the_starter_model_takes_any_number_of_tiles_and_says_what_it_is(tmp_path):
    detector = load_detector(starter_path())
    before = {name: value.clone() for name, value in detector.saved_state().items()}
    assert export_onnx(detector, tmp_path / "new" / "starter.onnx") == 0
    for count in (1, 5):
        session, outputs = _agree(tmp_path / "new" / "starter.onnx", detector, _tiles(count, 256, seed=count))
    assert outputs == {"score", "error_map"}
    said = session.get_modelmeta().custom_metadata_map
    assert (said["detector"], said["tile_px"], float(said["mpp"])) == ("vqvae", "256", detector.settings.mpp)
    rate = float(said["false_positive_rate"])
    assert float(said["threshold"]) == pytest.approx(detector.calibration.threshold(rate))
    assert all(torch.equal(value, before[name]) for name, value in detector.saved_state().items())
    assert next(detector.network.parameters()).requires_grad


@pytest.mark.parametrize(("name", "batch"), [("embedding", 0), ("perceptual_gan", 1)])
def test_others_too_if_need_be_tile_by_tile(name, batch, tmp_path):
    detector = _fitted(name)
    assert export_onnx(detector, tmp_path / "a.onnx") == batch
    _agree(tmp_path / "a.onnx", detector, _tiles(batch or 3, SIDE, seed=5))


def test_what_onnx_cannot_say_is_not_written(tmp_path):
    with pytest.raises(SettingsError, match="texture cannot be written as ONNX"):
        export_onnx(_fitted("texture"), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(SettingsError, match=r"onnxscript is not installed") as err:
        export_onnx(load_detector(starter_path()), tmp_path / "a.onnx")
    assert "napari-histoad[onnx]" in err.value.remedy


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        export_onnx(_fitted("colour"), tmp_path / "file" / "a.onnx")
