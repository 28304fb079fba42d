"""Files of weights from strangers: what they hold is read, never run."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hostile_pickles import Bomb

from napari_histoad.detectors import create_detector
from napari_histoad.detectors._encoders import create_timm, open_encoder
from napari_histoad.detectors._timm import import_timm
from napari_histoad.detectors._weights import only_weights, read_weights
from napari_histoad.errors import EncoderError

CNN = "resnet18.a1_in1k"
ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".npz", "")


def _plain_pickle(path, bomb):
    path.write_bytes(pickle.dumps({"conv1.weight": bomb}, protocol=2))


def _torch_zip(path, bomb):
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}, "more": bomb}, path)


def _torch_legacy(path, bomb):
    torch.save({"conv1.weight": bomb}, path, _use_new_zipfile_serialization=False)


def _numpy_object(path, bomb):
    with path.open("wb") as handle:
        np.savez(handle, **{"embedding/kernel": np.array([bomb], object)})


def _zip_of_pickle(path, bomb):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(bomb, protocol=2))
        archive.writestr("archive/version", "3")


HOSTILE = [_plain_pickle, _torch_zip, _torch_legacy, _numpy_object, _zip_of_pickle]


@pytest.fixture
def bomb(tmp_path):
    yield Bomb(tmp_path / "exploded")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("write", HOSTILE)
def test_code_in_a_file_of_weights_is_not_run(write, ending, bomb, tmp_path):
    file = tmp_path / f"weights{ending}"
    write(file, bomb)
    for load in (
        lambda: create_detector("embedding", tile_px=64, backbone=CNN, backbone_weights=file),
        lambda: create_timm(CNN, 3, 64, pretrained=True, weights=file),
        lambda: open_encoder(CNN, 64, file),
    ):
        with pytest.raises(EncoderError, match=f"{file.name} does not contain weights") as caught:
            load()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", HOSTILE)
def test_code_in_arrays_of_numpy_is_not_run(write, bomb, tmp_path):
    """Some models of timm read these by themselves."""
    write(tmp_path / "w.npz", bomb)
    with pytest.raises(EncoderError, match="w.npz does not contain weights"):
        open_encoder("vit_tiny_patch16_224.augreg_in21k", 64, tmp_path / "w.npz")


def test_hostile_weights_are_hostile(tmp_path):
    """What the others load does create the file, were it run."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded"))).close()
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize("write", [_plain_pickle, _torch_zip, _torch_legacy])
def test_other_libraries_cannot_run_code_while_only_weights_are_loaded(write, bomb, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write(tmp_path / "w.pth", bomb)
    with only_weights(), pytest.raises((pickle.UnpicklingError, RuntimeError)):
        torch.load(tmp_path / "w.pth", weights_only=False)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return import_timm().create_model(CNN).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": state, "model_ema": state},
    ],
)
@pytest.mark.parametrize("ending", [".pth", ".bin"])
def test_weights_as_training_scripts_save_them_are_read(state, wrap, ending, tmp_path):
    file = tmp_path / f"w{ending}"
    torch.save(wrap(state), file)
    found = read_weights(file)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert torch.equal(create_timm(CNN, 3, 64, pretrained=True, weights=file).conv1.weight, state["conv1.weight"])


def test_the_content_says_what_a_file_is_not_its_ending(state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "w.bin")
    torch.save(state, tmp_path / "w.safetensors")
    for name in ("w.bin", "w.safetensors"):
        assert read_weights(tmp_path / name).keys() == state.keys()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04", b"\x80\x02", b"\x08\0\0\0\0\0\0\0{" + b"x" * 20])
def test_damaged_weights_are_one_line(content, tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(content)
    with pytest.raises(EncoderError, match=r"w\.pth does not contain weights that can be read safely"):
        read_weights(file)


@pytest.mark.parametrize("value", [torch.zeros(3), [1, 2], {"a": 1}, {"state_dict": {"a": "text"}}, {}])
def test_what_is_no_table_of_tensors_is_refused(value, tmp_path):
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(EncoderError, match="does not contain (only )?weights"):
        read_weights(tmp_path / "w.pth")
