"""Several devices: here two processes on the CPU, which take the same way as two GPUs."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from torch import nn

from napari_histoad.detectors import create_detector
from napari_histoad.engine import choose_device, fit_job, score_images
from napari_histoad.engine.training._multi_device import average_gradients, share_buffers, together_job
from napari_histoad.errors import DeviceError, SettingsError
from napari_histoad.jobs import Progress, run
from napari_histoad.tiles import TileSet

TWO = choose_device("cpu", min(2, os.cpu_count() or 1))
pytestmark = pytest.mark.skipif(TWO.count < 2, reason="needs two cores")


def _gradient_job(fabric, choice, network, x):
    """Return the gradients of a batch of which each process sees a part, and what became of a buffer."""
    yield Progress("Learning", 0, 1)
    fabric.backward(network(x[fabric.global_rank :: fabric.world_size]).square().mean())
    average_gradients(fabric, network)
    network.running_mean.fill_(fabric.global_rank + 1)
    share_buffers(network)
    x += fabric.global_rank * 1000  # a copy of its own: the others do not see it
    fabric.barrier()
    yield Progress("Learning", 1, 1)
    return [p.grad.numpy() for p in network.parameters()], network.running_mean.numpy(), x.numpy(), str(choice.device)


def _refusing_job(fabric, choice):
    yield Progress("Learning", 0, 1)
    raise SettingsError(f"process {fabric.global_rank} refuses", "ask nicely")


def _dying_job(fabric, choice):
    yield Progress("Learning", 0, 1)
    if fabric.global_rank == 1:
        os._exit(3)
    fabric.barrier()


def _endless_job(fabric, choice):
    while True:
        yield Progress("Learning", 0, 0)


def test_processes_average_gradients_share_buffers_and_nothing_else():
    torch.manual_seed(0)
    network, x = nn.BatchNorm1d(3).eval(), torch.rand(8, 3)
    events = []
    gradients, buffer, seen, device = run(together_job(_gradient_job, TWO, network, x), events.append)
    network(x).square().mean().backward()
    for found, parameter in zip(gradients, network.parameters(), strict=True):
        assert np.allclose(found, parameter.grad, rtol=1e-5)
    assert np.array_equal(buffer, np.ones(3))
    assert np.array_equal(seen, x)
    assert device == "cpu"
    assert [e.done for e in events if e.stage == "Learning"][-1] == 1


@pytest.mark.slow
def test_error_in_a_process_is_raised_by_the_job():
    with pytest.raises(SettingsError, match=r"refuses; ask nicely"):
        run(together_job(_refusing_job, TWO))


def test_process_that_dies_ends_the_job_with_an_error():
    with pytest.raises(DeviceError, match=r"process \d of 2 (ended unexpectedly \(exit code 3\)|failed)"):
        run(together_job(_dying_job, TWO))
    assert not multiprocessing.active_children()


def test_closed_job_leaves_no_process():
    job = together_job(_endless_job, TWO)
    for progress in job:
        if progress.stage == "Learning":
            break
    assert multiprocessing.active_children()
    job.close()
    assert not multiprocessing.active_children()


def _training(checkpoint=None):
    rng = np.random.default_rng(0)
    images = rng.integers(100, 230, (120, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    torch.manual_seed(0)
    detector = create_detector("vqvae", target="pixels", tile_px=64, max_steps=12, batch=4)
    tiles = TileSet(images, np.arange(120) // 10)
    return images, fit_job(detector, tiles, device="cpu", devices=2, checkpoint=checkpoint)


def test_two_processes_train_a_detector():
    events = []
    images, job = _training()
    trained = run(job, events.append)
    assert [e for e in events if e.stage == "Training"][-1].done == 12
    assert any(e.preview is not None for e in events)
    torch.manual_seed(0)
    before = create_detector("vqvae", target="pixels", tile_px=64, max_steps=12, batch=4)
    assert score_images(trained, images, "cpu").mean() < score_images(before, images, "cpu").mean()


@pytest.mark.slow
def test_training_with_two_processes_is_repeatable_and_resumes(tmp_path):
    images, job = _training()
    undisturbed = run(job)
    _, cut = _training(tmp_path / "c")
    for progress in cut:
        if progress.stage == "Training" and progress.done == 7:
            break
    cut.close()
    events = []
    resumed = run(_training(tmp_path / "c")[1], events.append)
    assert next(e for e in events if e.stage == "Training").done >= 6
    assert np.array_equal(score_images(resumed, images[:8], "cpu"), score_images(undisturbed, images[:8], "cpu"))


def test_too_many_devices_and_too_small_batches_are_refused():
    with pytest.raises(DeviceError, match=r"100000 devices named cpu cannot train together"):
        choose_device("cpu", 100_000)
    with pytest.raises(DeviceError, match="without a number"):
        choose_device("cpu:0", 2)
    tiles = TileSet(np.zeros((60, 64, 64, 3), np.uint8), np.arange(60))
    with pytest.raises(SettingsError, match=r"batches of 2 tiles are too small for 2 devices; train on 1"):
        run(fit_job(create_detector("vqvae", tile_px=64, max_steps=2, batch=2), tiles, device="cpu", devices=2))
