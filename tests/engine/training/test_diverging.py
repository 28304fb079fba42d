"""Training that diverges saves nothing and says so; what is resumed equals what was not disturbed, for every network."""

import numpy as np
import pytest
import torch
from PIL import Image

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import create_detector, load_detector, save_detector
from napari_histoad.detectors.vqvae import VqVaeDetector
from napari_histoad.engine import TrainingSource, fit_job, map_job, score_images, train_job
from napari_histoad.errors import SettingsError, TrainingError
from napari_histoad.jobs import run
from napari_histoad.slide import open_slide
from napari_histoad.tiles import TileSet

STEPS = 12
NETWORKS = {
    "vqvae": {"batch": 4},
    "vqvae, fsq": {"batch": 4, "quantizer": "fsq"},
    "vqvae, pixels": {"batch": 4, "target": "pixels"},
    "vqvae, pixels, fsq": {"batch": 4, "target": "pixels", "quantizer": "fsq"},
    "combined": {"batch": 4},
    "kde_autoencoder": {"batch": 4},
    "adversarial_autoencoder": {"batch": 8, "input_px": 16},
    "perceptual_autoencoder": {"batch": 4, "growing": True, "wgan": 0.1, "width": 4},
    "perceptual_gan": {"batch": 4, "input_px": 32, "widths": (8, 16)},
    "geometric_transforms": {"batch": 4, "widen": 1, "score_transforms": 9},
    "embedding": {"batch": 4, "backbone": "own"},
    "deep_isolation_forest": {"batch": 4, "backbone": "own", "trees": 10},
}


def _create(name, **more):
    torch.manual_seed(0)
    return create_detector(name.partition(",")[0], tile_px=64, max_steps=STEPS, **NETWORKS[name], **more)


@pytest.fixture(scope="module")
def tiles():
    rng = np.random.default_rng(0)
    images = rng.integers(100, 230, (60, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    return TileSet(images, np.arange(60) // 5, ("made up",))


@pytest.fixture(scope="module")
def tile_folder(tiles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiles")
    lines = ["file,label,group"]
    for k, image in enumerate(tiles.images):
        Image.fromarray(image).save(folder / f"{k}.png")
        lines.append(f"{k}.png,0,{k // 5}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder / "manifest.csv"


def _poisoned_after(monkeypatch, cls, last_good):
    """Let the first weight that is learnt become NaN in the step after so many good ones."""
    real, taken = cls.learn, []

    def learn(self, images, optimizers, backward, weights=None):
        losses = real(self, images, optimizers, backward, weights)
        taken.append(1)
        if len(taken) > last_good:
            with torch.no_grad():
                next(self.network.parameters()).fill_(torch.nan)
        return losses

    monkeypatch.setattr(cls, "learn", learn)


@pytest.mark.parametrize("last_good", [0, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_diverged_network_is_not_saved(name, last_good, tile_folder, tmp_path, monkeypatch):
    detector = _create(name)
    _poisoned_after(monkeypatch, type(detector), last_good)
    settings = detector.settings.model_dump(exclude={"mpp"})
    job = train_job([TrainingSource(tile_folder)], tmp_path / "d.safetensors", detector=detector.name, settings=settings)
    with pytest.raises(TrainingError, match=r"diverged in step \d+: .*; train with a lower learning rate"):
        run(job)
    assert not list(tmp_path.iterdir())


def test_training_refuses_an_infinite_loss_in_the_first_step(tiles, monkeypatch):
    real = VqVaeDetector.losses
    monkeypatch.setattr(VqVaeDetector, "losses", lambda *args: real(*args) | {"reconstruction": torch.tensor(torch.inf)})
    with pytest.raises(TrainingError, match="diverged in step 1:"):
        run(fit_job(_create("vqvae"), tiles, device="cpu"))


def test_diverged_refinement_is_not_saved(tile_folder, tmp_path, monkeypatch):
    detector = _create("adversarial_autoencoder")
    _poisoned_after(monkeypatch, type(detector), STEPS + 1)
    settings = detector.settings.model_dump(exclude={"mpp"})
    out = tmp_path / "d.safetensors"
    job = train_job([TrainingSource(tile_folder)], out, detector=detector.name, settings=settings, refine="svm")
    with pytest.raises(TrainingError, match="diverged"):
        run(job)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NETWORKS)
def test_interrupted_training_resumes_to_the_same_bytes(name, tiles, tmp_path):
    undisturbed = save_detector(run(fit_job(_create(name), tiles, device="cpu")), tmp_path / "one.safetensors")
    checkpoint = tmp_path / "c"
    job = fit_job(_create(name), tiles, device="cpu", checkpoint=checkpoint)
    for progress in job:
        if progress.stage == "Training" and progress.done == 4:
            break
    job.close()
    assert checkpoint.exists()
    torch.rand(5)  # whatever happened meanwhile
    events = []
    resumed = run(fit_job(_create(name), tiles, device="cpu", checkpoint=checkpoint), events.append)
    assert next(e.done for e in events if e.stage == "Training") == 3
    assert save_detector(resumed, tmp_path / "two.safetensors").read_bytes() == undisturbed.read_bytes()


@pytest.fixture
def broken():
    """A detector that gives NaN for the first tile of every batch."""
    detector = create_detector("colour", tile_px=64, mpp=1.0)
    detector.fit(np.random.default_rng(0).integers(100, 250, (40, 64, 64, 3), np.uint8))
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    real = detector.model.distance

    def distance(features):
        return torch.where(torch.arange(len(features)) == 0, torch.nan, real(features))

    detector.model.distance = distance
    return detector


def test_training_refuses_nan_calibration_scores(tiles, monkeypatch):
    monkeypatch.setattr(VqVaeDetector, "score", lambda self, images: _nan_scores(images))
    with pytest.raises(TrainingError, match="no finite score"):
        run(fit_job(_create("vqvae"), tiles, device="cpu"))


def _nan_scores(images):
    from napari_histoad.detectors import TileScores

    return TileScores(torch.full((len(images),), torch.nan))


def test_nan_scores_of_a_map_are_not_reported_as_unreadable_tiles(sample, broken, tmp_path):
    with open_slide(sample.path) as slide, pytest.raises(TrainingError, match="colour detector gives no finite score for 1 of"):
        run(map_job(slide, tmp_path, detector=broken, device="cpu"))


def test_nan_scores_of_tiles_in_memory_are_refused(tiles, broken):
    with pytest.raises(TrainingError, match="no finite score"):
        score_images(broken, tiles.images, "cpu")


def test_critic_of_a_growing_network_is_not_trained_before_its_stage(tiles):
    detector = _create("perceptual_autoencoder")
    detector.network.train()
    images = torch.from_numpy(tiles.images[:4])
    optimizers = detector.optimizers()
    before = [p.clone() for p in detector.network.critic.parameters()]
    learnt, descended = [], []
    for _ in range(STEPS):
        loss = detector.losses(images)
        loss["loss"].backward()
        descended.append(any(p.grad is not None and bool(p.grad.any()) for p in detector.network.critic.parameters()))
        detector.network.zero_grad(set_to_none=True)
        detector.learn(images, optimizers, lambda loss: loss.backward())
        now = [p.clone() for p in detector.network.critic.parameters()]
        learnt.append(any(not torch.equal(a, b) for a, b in zip(before, now, strict=True)))
        before = now
    assert learnt == descended
    assert any(learnt)
    assert not all(learnt)


def test_training_refuses_impossible_settings_before_it_starts(sample, tmp_path):
    for name, settings, word in (
        ("vqvae", {"target": "pixels", "quantizer": "fsq", "error": "latent"}, "does not train them to be equal"),
        ("perceptual_autoencoder", {"wgan": 0.1, "tile_px": 32}, "critic of wgan needs crops of 64 px"),
    ):
        events = []
        job = train_job([TrainingSource(sample.path)], tmp_path / "d.safetensors", detector=name, settings=settings)
        with pytest.raises(SettingsError, match=word):
            run(job, events.append)
        assert not events
    detector = _create("vqvae, pixels, fsq")
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    path = save_detector(detector, tmp_path / "d.safetensors")
    with pytest.raises(Exception, match="does not train them to be equal"):
        load_detector(path, error="latent")
