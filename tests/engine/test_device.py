"""Where is computed does not decide what comes out."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from napari_histoad import AnomalyMap, load_detector, map_slide
from napari_histoad.engine import choose_device
from napari_histoad.engine._batch import batches_of, score_stream

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


@pytest.mark.parametrize("device", DEVICES)
def test_upload_returns_the_same_batch(device):
    choice, rng = choose_device(device), np.random.default_rng(0)
    allocate = choice.allocate or (lambda shape: np.empty(shape, np.uint8))
    batches = [allocate((choice.batch, 64, 64, 3)) for _ in range(4)]
    for batch in batches:
        batch[:] = rng.integers(0, 256, batch.shape)
    arrived = [choice.upload(batch) for batch in batches]
    assert {batch.device.type for batch in arrived} == {device}
    for sent, batch in zip(batches, arrived, strict=True):
        assert np.array_equal(batch.cpu().numpy(), sent)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_in_flight_get_the_same_scores_as_single_ones(device, detector_file):
    choice, rng = choose_device(device), np.random.default_rng(0)
    detector = load_detector(detector_file)
    detector.to(choice.device)
    batches = list(batches_of(rng.integers(0, 256, (96, 64, 64, 3)).astype(np.uint8), 8))
    together = list(score_stream(detector, choice, batches))
    for batch, found in zip(batches, together, strict=True):
        (alone,) = score_stream(detector, choice, [batch])
        assert np.array_equal(found.index, batch.index)
        assert np.array_equal(found.scores, alone.scores)


@needs_cuda
def test_gpu_and_cpu_give_the_same_map(sample, detector_file, map_folder, tmp_path):
    here, there = AnomalyMap.open(map_folder), map_slide(sample.path, tmp_path, model=detector_file, stride_px=64, device="cuda")
    assert np.abs(here.scores - there.scores).max() < 1e-3
    assert spearmanr(here.scores, there.scores).statistic > 0.999  # scores are small: near is not yet alike
    for ours, theirs in zip(here.levels, there.levels, strict=True):
        assert np.array_equal(np.isnan(np.asarray(ours)), np.isnan(np.asarray(theirs)))
