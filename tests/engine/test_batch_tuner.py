"""Trying how to score costs no tile and changes no byte."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad import load_detector, open_slide
from napari_histoad.detectors import TileScores, create_detector
from napari_histoad.engine import _batch_tuner, choose_device
from napari_histoad.engine._batch_tuner import Tuner, is_tunable, tuner_of
from napari_histoad.engine.mapping._blocks import score_blocks
from napari_histoad.maps import ScoredTiles
from napari_histoad.tiles import TileGrid


@pytest.fixture
def cpu():
    return choose_device("cpu")


def _work(tuner, blocks, seconds, same):
    """Drive a tuner over blocks of a machine that takes so many seconds per block; return what it scored how."""
    done = []
    while blocks:
        step = tuner.step(blocks)
        assert 1 <= step.blocks <= blocks
        blocks -= step.blocks
        done.append(step)
        tuner.took(step, step.blocks * 64, step.blocks * seconds(step.choice))
        if step.against is not None:
            tuner.compared(same=same(step.against))
    return done


def _key(choice):
    return choice.batch, choice.worker_threads


@given(st.data())
def test_tuner_ends_with_a_setting_that_is_no_slower_and_gives_the_same_bytes(data):
    cpu = choose_device("cpu")
    cost, alike = {}, {}

    def seconds(choice):
        return cost.setdefault(_key(choice), data.draw(st.floats(0.001, 1)))

    def same(choice):
        return alike.setdefault(_key(choice), data.draw(st.booleans()))

    tuner = Tuner(cpu, 0, 0)
    done = _work(tuner, 10**5, seconds, same)
    assert tuner.settled
    assert seconds(tuner.best) <= seconds(cpu)
    used = {_key(step.choice) for step in done}
    assert all(alike[key] for key in used - {_key(cpu)})
    assert all(batch <= 64 and batch * threads <= 128 for batch, threads in used)
    assert done[-1].choice == tuner.best


def test_tuner_seldom_prefers_an_equal_setting_on_a_machine_of_varying_speed(cpu):
    """A tenth from part to part, and twice as much from one moment to the next."""
    left = 0
    for seed in range(60):
        rng, tuner, speed = np.random.default_rng(seed), Tuner(cpu, 0, 0), 1.0

        def seconds(_, rng=rng):
            nonlocal speed
            speed = 0.7 * speed + 0.3 * rng.uniform(0.8, 1.2)
            return 0.01 * speed * rng.normal(1, 0.1)

        _work(tuner, 10**4, seconds, lambda _: True)
        left += tuner.best != cpu
    assert left <= 9


def test_tuner_does_not_split_little_work(cpu):
    assert Tuner(cpu).step(99).blocks == 99
    assert Tuner(cpu).step(100).blocks < 100


def test_tuner_does_not_enlarge_slow_batches(cpu):
    tuner = Tuner(cpu, 0, 0)
    done = _work(
        tuner, 10**5, lambda choice: 64 * 0.3 / cpu.batch / cpu.worker_threads * cpu.batch / choice.batch, lambda _: True
    )
    assert tuner.settled
    assert max(step.choice.batch for step in done) == cpu.batch


@pytest.mark.parametrize(
    ("costs", "found"), [({8: 4, 16: 2, 32: 1}, 32), ({8: 4, 16: 2, 32: 5}, 16), ({8: 2, 16: 3, 4: 1, 2: 0.5}, 2)]
)
def test_tuner_continues_in_a_direction_while_it_is_faster(cpu, costs, found):
    tuner = Tuner(cpu, 0, 0)
    _work(
        tuner,
        10**5,
        lambda choice: 0.01 * costs.get(choice.batch, 9) * (1 if choice.worker_threads == cpu.worker_threads else 3),
        lambda _: True,
    )
    assert _key(tuner.best) == (found, cpu.worker_threads)
    assert tuner.note == f"Fastest here: {tuner.best.pace}"


def test_tuner_ignores_a_single_outlier(cpu):
    hiccup = iter([1, 1, 50] + [1] * 1000)
    tuner = Tuner(cpu, 0, 0)
    _work(tuner, 10**5, lambda choice: 0.01 * next(hiccup) * {8: 1, 16: 1.5}.get(choice.batch, 2), lambda _: True)
    assert tuner.best == cpu


@pytest.mark.parametrize(("blocks", "seconds"), [(1000, 0.01), (50, 10)])
def test_tuner_keeps_the_default_for_little_work(cpu, blocks, seconds):
    tuner = Tuner(cpu)
    done = _work(tuner, blocks, lambda _: seconds, lambda _: True)
    assert {step.choice for step in done} == {cpu}
    assert all(step.against is None for step in done)
    assert not tuner.settled  # much work may follow


def test_tuner_of_caches_the_tuner_of_the_last_detector(cpu):
    first, second = (create_detector("vqvae", target="pixels") for _ in range(2))
    tuner = tuner_of(first, cpu)
    assert tuner_of(first, cpu) is tuner
    assert tuner_of(second, cpu) is not tuner
    assert tuner_of(first, cpu) is not tuner


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("vqvae", {"target": "pixels"}, True),
        ("vqvae", {"target": "pixels", "error": "mahalanobis"}, False),
        ("vqvae", {}, False),
        ("combined", {}, False),
        ("texture", {}, False),
        ("adversarial_autoencoder", {}, True),
    ],
)
def test_is_tunable_excludes_distances_from_features(method, settings, expected):
    assert is_tunable(create_detector(method, **settings)) is expected


# -- on tiles


def _grid(slide, stride):
    return TileGrid.cover(slide.shape, slide.require_mpp(), tile_px=64, mpp=slide.require_mpp(), stride_px=stride)


def _scores(slide, grid, detector, choice, tuner):
    blocks = range(-(-len(grid) // 64))
    reports = score_blocks(slide, grid, blocks, detector, choice, 8, [], tuner)
    found = ScoredTiles.join([report for report in reports if isinstance(report, ScoredTiles)])
    assert np.array_equal(found.index, np.arange(len(grid)))  # what is scored to compare does not count
    return found.scores, found.error_cells


def test_score_blocks_gives_the_same_bytes_while_the_tuner_searches(sample, detector_file, cpu, monkeypatch):
    monkeypatch.setattr(_batch_tuner, "_PART_S", 0.0)
    detector, tuner = load_detector(detector_file), Tuner(cpu, 0, 0)
    with open_slide(sample.path) as slide:
        grid = _grid(slide, 32)
        assert len(grid) % 64
        plain, tried = (_scores(slide, grid, detector, cpu, t) for t in (Tuner(cpu, np.inf), tuner))
    assert len(tuner._tried) > 1
    for ours, theirs in zip(tried, plain, strict=True):
        assert np.array_equal(ours, theirs)


def test_tuner_rejects_a_batch_size_that_changes_scores(sample, cpu, monkeypatch):
    monkeypatch.setattr(_batch_tuner, "_PART_S", 0.0)
    detector = create_detector("colour", tile_px=64)
    seen = set()

    def score(images):
        seen.add(len(images))
        return TileScores(images.float().mean((1, 2, 3)) + len(images))

    detector.score = score
    tuner = Tuner(cpu, 0, 0)
    with open_slide(sample.path) as slide:
        grid = _grid(slide, 32)
        grid = grid.subset(np.arange(len(grid) // 64 * 64))
        plain, tried = (_scores(slide, grid, detector, cpu, t)[0] for t in (Tuner(cpu, np.inf), tuner))
    assert {2 * cpu.batch, cpu.batch // 2} <= seen  # they were looked at
    assert tuner.best.batch == cpu.batch
    assert np.array_equal(tried, plain)
