import numpy as np
import pytest
import torch

from napari_histoad.detectors import create_detector
from napari_histoad.engine import fit_job
from napari_histoad.engine._device import choose_device
from napari_histoad.engine.training._estimate import TrainingEstimate, estimate_training
from napari_histoad.tiles import TileSet

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), np.uint8)


def _estimate(method, images=IMAGES, **settings):
    detector = create_detector(method, tile_px=64, **settings)
    detector.prepare(images)
    return estimate_training(detector, torch.from_numpy(images), choose_device("cpu"))


def test_estimate_grows_with_steps_and_batch_size():
    few, many = (_estimate("vqvae", max_steps=n, batch=4) for n in (10, 1000))
    assert many.seconds > 10 * few.seconds
    assert many.memory_bytes == pytest.approx(few.memory_bytes, rel=0.05)
    assert _estimate("vqvae", max_steps=10, batch=16).memory_bytes > 2 * few.memory_bytes


def test_estimate_states_the_bounded_memory_of_stored_features():
    estimate = _estimate("texture")
    assert estimate.bank_bytes == 64 * 310 * 4
    model = create_detector("texture", tile_px=64).model
    assert model.fitted_bytes(10**6) == model.fitted_bytes(10**7) == 20_000 * 310 * 4
    assert "features of normal tiles" in str(estimate)


def test_estimate_changes_neither_detector_nor_random_state():
    detector = create_detector("vqvae", tile_px=64, batch=4)
    detector.prepare(IMAGES)
    before = {name: value.clone() for name, value in detector.network.state_dict().items()}
    state = torch.get_rng_state()
    estimate_training(detector, torch.from_numpy(IMAGES), choose_device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in detector.network.state_dict().items())


@pytest.mark.parametrize("method", ["vqvae", "texture", "colour"])
def test_training_reports_the_estimate_before_it_starts(method):
    settings = {"max_steps": 2, "batch": 4} if method == "vqvae" else {}
    job = fit_job(create_detector(method, tile_px=64, **settings), TileSet(IMAGES, np.arange(64) // 8), device="cpu")
    reports = list(job)
    assert reports[0].note.startswith("Takes ")
    assert not any(report.note for report in reports[1:])


def test_estimate_formats_sizes_and_durations():
    assert str(TrainingEstimate(200, 2_340_000_000)) == "Takes at most 3 min 20 s and 2.3 GB of memory"
    assert str(TrainingEstimate(0.2, 12_000_000, 1_600_000)) == (
        "Takes at most 1 s and 12 MB of memory, 2 MB of it for features of normal tiles"
    )
