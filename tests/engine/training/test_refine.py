import shutil

import numpy as np
import pytest
import torch

from napari_histoad import load_detector, recalibrate, train
from napari_histoad.calibration import Calibration
from napari_histoad.detectors import create_detector
from napari_histoad.engine import fit_job, score_images, suspicious_file
from napari_histoad.engine.training._refine import suspicious
from napari_histoad.errors import SettingsError
from napari_histoad.jobs import run
from napari_histoad.tiles import TileSet, read_places


def _tiles(n_normal, n_noise, seed=0):
    rng = np.random.default_rng(seed)
    normal = rng.integers(100, 230, (n_normal, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    noise = rng.integers(0, 256, (n_noise, 64, 64, 3), np.uint8)
    images = np.concatenate([normal, noise])
    return TileSet(images, np.arange(len(images)) // 5)


@pytest.mark.parametrize("features", [4, 16, 128])
@pytest.mark.parametrize("tiles", [100, 400])
@pytest.mark.parametrize("kind", ["neighbours", "svm"])
def test_suspicious_finds_outliers_and_leaves_out_at_most_a_fifth(kind, tiles, features):
    rng = np.random.default_rng(0)
    strangers = tiles // 20
    codes = rng.normal(size=(tiles, features)).astype(np.float32)
    codes[:strangers] = codes[:strangers] * 1.5 + 3
    found = suspicious(codes, kind, rng)
    assert found[:strangers].mean() > 0.8
    assert found.mean() < 0.25


@pytest.mark.parametrize("method", ["texture", "vqvae"])
def test_fit_job_with_refine_leaves_out_outliers(method):
    tiles = _tiles(190, 10)
    settings = {"max_steps": 20, "batch": 4} if method == "vqvae" else {}
    torch.manual_seed(0)
    detector = run(fit_job(create_detector(method, tile_px=64, **settings), tiles, device="cpu", refine="neighbours"))
    assert len(detector.left_out)
    learnt_from = 10 if method == "texture" else (np.isin(np.arange(190, 200), detector.left_out)).sum()
    assert np.isin(np.arange(190, 200), detector.left_out).sum() >= min(learnt_from, 10)
    if method == "texture":
        assert set(range(190, 200)) <= set(detector.left_out.tolist())
        noise = score_images(detector, _tiles(0, 8, seed=1).images, "cpu")
        assert (detector.calibration.p_value(noise) < 0.05).all()


def _svm_refined(checkpoint=None):
    torch.manual_seed(0)
    detector = create_detector("adversarial_autoencoder", tile_px=64, max_steps=10, batch=8, input_px=16)
    return fit_job(detector, _tiles(150, 8), device="cpu", refine="svm", checkpoint=checkpoint)


def test_refine_job_with_svm_trains_between_rounds_and_weighs_the_worst_negatively(monkeypatch):
    seen, events = [], []
    real = type(create_detector("adversarial_autoencoder", tile_px=64)).learn

    def learn(self, images, optimizers, backward, weights=None):
        if weights is not None:
            seen.append(weights)
        return real(self, images, optimizers, backward, weights)

    monkeypatch.setattr(type(create_detector("adversarial_autoencoder", tile_px=64)), "learn", learn)
    detector = run(_svm_refined(), events.append)
    assert [e.done for e in events if e.stage == "Refining"] == list(range(10))
    trainings = [e.total for e in events if e.stage == "Training" and e.done == 0]
    assert trainings == [10, *[2] * 10, 10]
    weights = torch.cat(seen)
    assert sorted(weights.unique().tolist()) == pytest.approx([-0.05, 1.0])
    assert (weights < 0).float().mean() < 0.2
    kept = np.setdiff1d(np.arange(158), detector.left_out)
    assert 0.02 < len(detector.left_out) / 158 < 0.35
    assert len(kept) + len(detector.left_out) == 158


def test_refine_job_resumes_and_gives_the_same_detector(tmp_path):
    undisturbed = run(_svm_refined())
    checkpoint = tmp_path / "c"
    job = _svm_refined(checkpoint)
    for progress in job:
        if progress.stage == "Refining" and progress.done == 6:
            break
    job.close()
    events = []
    resumed = run(_svm_refined(checkpoint), events.append)
    # The trainings before the cut are not done again: they begin at their end.
    assert [e.done for e in events if e.stage == "Training"][:2] == [10, 10]
    assert np.array_equal(resumed.left_out, undisturbed.left_out)
    images = _tiles(8, 0, seed=1).images
    assert np.array_equal(score_images(resumed, images, "cpu"), score_images(undisturbed, images, "cpu"))


def test_fit_job_refuses_unknown_refinements_and_methods_without_features():
    with pytest.raises(SettingsError, match="no refinement named 'x'"):
        run(fit_job(create_detector("colour", tile_px=64), _tiles(100, 0), refine="x"))

    class Plain(type(create_detector("vqvae", tile_px=64))):
        def features(self, images):
            return None

    detector = Plain(create_detector("vqvae", tile_px=64, max_steps=2, batch=4).settings)
    detector.fit = lambda images, robust=False: None
    with pytest.raises(SettingsError, match="has no features"):
        run(fit_job(detector, _tiles(100, 0), device="cpu", refine="svm"))


def test_train_lists_left_out_tiles_beside_the_detector(sample, tmp_path):
    out = tmp_path / "d.safetensors"
    detector = train(
        sample.path, out, normal=sample.plan.normal, detector="texture", tile_px=64, refine="neighbours", device="cpu"
    )
    places = read_places(suspicious_file(out))
    assert len(places) == len(detector.left_out) > 0
    assert {p.source for p in places} == {"sample.tif"}
    assert all(0 <= p.box[0] < p.box[2] for p in places)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.safetensors", "d.suspicious.csv"]


def test_recalibration_keeps_weights_and_changes_thresholds(sample, detector_file, tmp_path):
    before = load_detector(detector_file)
    with pytest.raises(SettingsError, match=r"was trained on sample\.tif"):
        recalibrate(detector_file, sample.path, tmp_path / "r.safetensors", normal=sample.plan.normal)
    other = tmp_path / "other.tif"
    shutil.copy(sample.path, other)
    after = recalibrate(detector_file, other, tmp_path / "r.safetensors", normal=sample.plan.normal, device="cpu")
    images = _tiles(4, 2).images
    assert np.array_equal(score_images(before, images, "cpu"), score_images(after, images, "cpu"))
    assert not np.array_equal(before.calibration.scores, after.calibration.scores)
    assert len(after.calibration.scores) > len(before.calibration.scores)
    again = load_detector(tmp_path / "r.safetensors")
    assert np.array_equal(again.calibration.scores, after.calibration.scores)


@pytest.mark.parametrize("method", ["texture", "colour"])
def test_cross_fitted_false_positive_rates_are_as_stated(method):
    """Nominal 10% on exchangeable tiles, over draws of training sets."""
    rates = []
    for seed in range(6):
        tiles = _tiles(300, 0, seed)
        learnt, fresh = tiles.subset(np.arange(100)), tiles.images[100:]
        detector = run(fit_job(create_detector(method, tile_px=64), learnt, device="cpu", seed=seed))
        assert len(detector.calibration.scores) == 100
        rates.append((detector.calibration.p_value(score_images(detector, fresh, "cpu")) <= 0.1).mean())
    assert 0.03 < np.mean(rates) < 0.14


def test_recalibration_accepts_all_tissue_and_mixed_tissue(sample, tmp_path, monkeypatch):
    model = tmp_path / "m.safetensors"
    train(sample.path, model, normal=sample.plan.normal, detector="colour", tile_px=64, device="cpu")
    other = tmp_path / "other.tif"
    shutil.copy(sample.path, other)
    real, robust = Calibration.from_scores, []

    def from_scores(scores, **options):
        if "robust" in options:  # else they are cells of the map
            robust.append(options["robust"])
        return real(scores, **options)

    monkeypatch.setattr(Calibration, "from_scores", from_scores)
    for word in ("all-tissue", "mixed-tissue"):
        found = recalibrate(model, other, tmp_path / "r.safetensors", normal=word, device="cpu").calibration
        assert ("mixed" in found.basis.doubts) is (word == "mixed-tissue")
        assert found.note == load_detector(tmp_path / "r.safetensors").calibration.note
    assert robust == [False, True]
