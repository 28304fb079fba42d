import numpy as np
import pytest
import safetensors.torch
import torch

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import (
    create_detector,
    describe_encoder,
    fetch_weights,
    load_detector,
    register_weights,
    save_detector,
)
from napari_histoad.detectors._encoders import import_timm, open_encoder
from napari_histoad.errors import BundleError, EncoderError

VIT, CNN = "test_vit.r160_in1k", "resnet18.a1_in1k"


@pytest.fixture(scope="module", params=[VIT, CNN])
def weights(request, tmp_path_factory):
    """A file of (random) weights under the name of a real model."""
    timm = import_timm()
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.torch.save_file(timm.create_model(request.param).state_dict(), path)
    return request.param, path


def _images(n):
    return np.random.default_rng(n).integers(0, 256, (n, 64, 64, 3), np.uint8)


def test_weights_from_a_file_give_features_and_a_record(weights):
    name, path = weights
    encoder, record = open_encoder(name, 64, path)
    features = encoder(torch.rand(2, 3, 64, 64))
    assert features.tile.shape[0] == features.cells.shape[0] == 2
    assert torch.allclose(features.tile.norm(dim=1), torch.ones(2))
    assert record.name == name
    assert record.licence == "apache-2.0"
    assert len(record.sha256) == 64


@pytest.mark.parametrize("method", ["embedding", "deep_isolation_forest"])
def test_a_detector_on_them_is_saved_without_them_and_asks_for_the_same(weights, method, tmp_path, monkeypatch):
    name, path = weights
    detector = create_detector(method, tile_px=64, backbone=name, backbone_weights=path)
    detector.fit(_images(30))
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    file = save_detector(detector, tmp_path / "d.safetensors")
    assert str(path) not in file.read_bytes()[:20000].decode(errors="ignore")  # no path of this machine
    assert load_detector(file).backbone == detector.backbone  # training saw where the weights lie
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user"))
    with pytest.raises(BundleError, match="not on this machine"):
        load_detector(file)
    assert register_weights(path) == detector.backbone.sha256
    assert load_detector(file).calibration is not None
    again = load_detector(file, backbone_weights=path)
    with torch.inference_mode():
        images = torch.from_numpy(_images(3))
        assert torch.equal(again.score(images).score, detector.score(images).score)
    assert again.calibration is not None
    other = tmp_path / "other.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({k: v + 0.1 if v.is_floating_point() else v for k, v in tensors.items()}, other)
    with pytest.raises(BundleError, match="other weights"):
        load_detector(file, backbone_weights=other)


def test_what_is_missing_or_wrong_is_said(tmp_path):
    with pytest.raises(EncoderError, match="not on this machine.*--fetch resnet18"):
        create_detector("embedding", tile_px=64, backbone=CNN)
    with pytest.raises(EncoderError, match="no model named 'resnet1008'"):
        create_detector("embedding", tile_px=64, backbone="resnet1008")
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with pytest.raises(EncoderError, match="does not contain weights"):
        create_detector("embedding", tile_px=64, backbone=CNN, backbone_weights=tmp_path / "w.safetensors")


def test_a_licence_is_known_before_any_download():
    known = describe_encoder("vit_small_patch14_reg4_dinov2.lvd142m")
    assert known["licence"] == "apache-2.0"
    assert known["from"]
    assert known["file"] == ""


def test_the_default_encoders_need_nothing():
    for name in ("starter", "own"):
        encoder, record = open_encoder(name, 64)
        assert record is None
        assert encoder(torch.rand(1, 3, 64, 64)).tile.ndim == 2


def test_a_download_that_nobody_answers_is_one_line(monkeypatch):
    import huggingface_hub

    def fail(*args, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("Connection error")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(EncoderError, match="no connection.*backbone_weights"):
        fetch_weights(CNN)


@pytest.mark.parametrize("words", ["timed out", ""])
def test_a_download_that_breaks_off_is_one_line(monkeypatch, words):
    import huggingface_hub

    class ReadTimeoutError(Exception):
        """What HTTP libraries raise need be neither an OSError nor the hub's."""

    def fail(*args, **options):
        raise ReadTimeoutError(words)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(EncoderError, match=f"cannot be downloaded .{words or 'ReadTimeoutError'}.*backbone_weights"):
        fetch_weights(CNN)


def test_what_was_fetched_is_found_and_used(monkeypatch, tmp_path):
    import huggingface_hub

    timm = import_timm()
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(timm.create_model(VIT).state_dict(), path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: str(path))
    assert fetch_weights(VIT) == path
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file: str(path))
    assert describe_encoder(VIT)["file"] == str(path)
    _, record = open_encoder(VIT, 64)
    assert record.name == VIT
