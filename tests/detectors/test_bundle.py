import json
import pickle

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from napari_histoad import load_detector
from napari_histoad.calibration import Calibration, CalibrationBasis
from napari_histoad.detectors import create_detector, read_header, save_detector, starter_path
from napari_histoad.errors import BundleError, OutputError


@pytest.fixture
def bundle(tmp_path):
    detector = create_detector("colour", tile_px=64)
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    return save_detector(detector, tmp_path / "d.safetensors")


def _rewrite(path, header=None, drop=None):
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as handle:
        metadata = handle.metadata()
    if header is not None:
        metadata["napari_histoad"] = json.dumps({**json.loads(metadata["napari_histoad"]), **header})
    if drop:
        tensors.pop(drop)
    safetensors.numpy.save_file(tensors, path, metadata=metadata)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "exploded"), "w")

    path = tmp_path / "d.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BundleError, match="not a detector file"):
        load_detector(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ({"format": 2}, "format"),
        ({"detector": "unheard-of"}, "no detector named"),
        ({"surprise": 1}, "surprise"),
        ({"settings": {"tile_px": -1}}, "tile_px"),
    ],
)
def test_bad_headers_are_explained(bundle, header, word):
    _rewrite(bundle, header)
    with pytest.raises(BundleError, match=word):
        load_detector(bundle)


@pytest.mark.parametrize("drop", ["model.mean", "calibration.scores"])
def test_missing_weights_are_explained(bundle, drop):
    _rewrite(bundle, drop=drop)
    with pytest.raises(BundleError, match="do not match"):
        load_detector(bundle)


def test_truncated_and_missing_files(bundle, tmp_path):
    bundle.write_bytes(bundle.read_bytes()[:-40])
    with pytest.raises(BundleError, match="not a detector file"):
        load_detector(bundle)
    with pytest.raises(BundleError, match="no detector file"):
        load_detector(tmp_path / "none.safetensors")


def test_tensors_of_others_are_no_detector(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, path)
    with pytest.raises(BundleError, match="tensors but no detector"):
        read_header(path)


def test_overrides_drop_the_calibration():
    assert load_detector(starter_path()).calibration is not None
    assert load_detector(starter_path(), error="latent").calibration is None


def test_unwritable_places_leave_nothing_behind(bundle, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_detector(load_detector(bundle), tmp_path / "file" / "d.safetensors")


@pytest.mark.parametrize(("error", "score"), [("mean", 0.0121341), ("mahalanobis", 7.65951)])
def test_a_file_of_an_earlier_version_gives_the_scores_it_gave(error, score):
    """The starter model was written by version 0.1.0; machines differ in the last digits."""
    y, x = np.mgrid[:256, :256]
    waves = [150 + 80 * np.sin(x / 9) * np.cos(y / 7), 110 + 60 * np.sin((x + y) / 11), 170 + 50 * np.cos(x / 5)]
    image = np.stack(waves, -1).round().clip(0, 255).astype(np.uint8)
    detector = load_detector(starter_path(), error=error)
    with torch.inference_mode():
        found = float(detector.score(torch.from_numpy(image[None])).score)
    assert found == pytest.approx(score, rel=1e-3)


def test_what_the_rates_rest_on_is_kept(tmp_path):
    detector = create_detector("colour", tile_px=64)
    basis = CalibrationBasis("outlines", outlined=True, doubts=("refined",), sources=2)
    detector.calibration = Calibration.from_scores(np.arange(20.0), groups=np.arange(20) // 5, basis=basis)
    path = save_detector(detector, tmp_path / "d.safetensors")
    assert load_detector(path).calibration.basis == detector.calibration.basis
    assert load_detector(path).calibration.note == detector.calibration.note
    assert read_header(path).calibration_basis.groups == 4


def test_a_file_of_an_earlier_version_has_a_neutral_sentence_on_its_rates():
    assert "not recorded" in load_detector(starter_path()).calibration.note
