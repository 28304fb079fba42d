"""What every registered detector keeps; a new one is tested by being registered."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from napari_histoad.calibration import Calibration
from napari_histoad.detectors import (
    create_detector,
    describe_detectors,
    detector_class,
    detector_names,
    load_detector,
    save_detector,
)
from napari_histoad.errors import BundleError, SettingsError
from napari_histoad.networks.threads import map_in_threads

SIDE = 64
STEPS = {"perceptual_autoencoder": 25, "perceptual_autoencoder, all options": 30}
FAST = {
    "geometric_transforms": {"widen": 1, "score_transforms": 9},
    "perceptual_gan": {"input_px": 32, "widths": (16, 32), "learning_rate": 1e-3},
}
VARIANTS = {
    "embedding, starter encoder": ("embedding", {"backbone": "starter"}),
    "embedding, own encoder": ("embedding", {"backbone": "own"}),
    "perceptual_autoencoder, all options": (
        "perceptual_autoencoder",
        {"growing": True, "l1": 0.1, "wgan": 0.1, "max_steps": 30, "learning_rate": 2e-3},
    ),
    "vqvae, FSQ": ("vqvae", {"quantizer": "fsq"}),
    "vqvae, pixels": ("vqvae", {"target": "pixels"}),
    "vqvae, ViT": ("vqvae", {"preset": "vit-32", "quantizer": "fsq"}),
}
SLOW_LEARNERS = {"perceptual_gan"}
"""Adversaries need hundreds of steps before they know anything; tried in a test marked slow."""


def _tiles(n, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(120, 230, (n, 8, 8, 3))
    return coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8)


def _fitted(name):
    torch.manual_seed(0)
    method, settings = VARIANTS.get(name, (name, FAST.get(name, {})))
    detector = create_detector(method, tile_px=SIDE, **settings)
    images = _tiles(40)
    detector.prepare(images)
    if detector.network is not None:
        reconstruction = detector.reconstruct(torch.from_numpy(images[:2]))  # shown in training, before `fit`
        assert reconstruction is None or reconstruction.shape[:2] == (2, 3)
        detector.network.train()
        optimizers = detector.optimizers()
        for step in range(STEPS.get(name, 3)):
            first = step % 4 * 8
            detector.learn(torch.from_numpy(images[first : first + 8]), optimizers, lambda loss: loss.backward())
        detector.network.eval()
    detector.fit(images)
    return detector


def _noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module", params=[*detector_names(), *VARIANTS])
def detector(request):
    return _fitted(request.param)


def _score(detector, images):
    with torch.inference_mode():
        return detector.score(torch.from_numpy(images))


def test_scores_have_their_shapes(detector):
    result = _score(detector, _tiles(5, seed=1))
    assert result.score.shape == (5,)
    assert result.score.dtype == torch.float32
    assert result.score.isfinite().all()
    if result.error_map is not None:
        assert result.error_map.ndim == 3
        assert len(result.error_map) == 5
    if result.reconstruction is not None:
        assert result.reconstruction.shape[:2] == (5, 3)
        assert result.reconstruction.shape[2] == result.reconstruction.shape[3]


def test_every_tensor_is_a_parameter_or_a_buffer(detector):
    """What `state_dict` does not know, `to` does not move."""
    stray = [
        f"{type(module).__name__}.{name}"
        for module in detector.modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]
    assert stray == []


def test_detector_moves_to_another_device_as_a_whole(detector, monkeypatch):
    elsewhere = copy.deepcopy(detector).to("meta")
    assert elsewhere.device.type == "meta"
    assert {value.device.type for value in (*elsewhere.parameters(), *elsewhere.buffers())} == {"meta"}
    # The others take decisions that depend on values, of which this device has none.
    if detector.exports_onnx and getattr(detector.settings, "quantizer", "") != "ema":
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # this device has none
        images = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8, device="meta")
        with torch.inference_mode():
            assert elsewhere(images).score.device.type == "meta"


def test_a_tile_scores_the_same_in_any_company(detector):
    images = _tiles(6, seed=2)
    together = _score(detector, images).score
    alone = torch.cat([_score(detector, images[i : i + 1]).score for i in range(6)])
    assert torch.allclose(together, alone, rtol=1e-3, atol=1e-6)


def test_batches_at_once_score_what_they_score_alone(detector):
    batches = [_tiles(4, seed=seed) for seed in range(6)]
    alone = [_score(detector, batch).score for batch in batches]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = list(map_in_threads(lambda batch: _score(detector, batch).score, batches, torch.device("cpu")))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_noise_is_more_anomalous_than_normal_tiles(detector):
    if detector.name in SLOW_LEARNERS or getattr(detector.settings, "growing", False):
        pytest.skip("learns too slowly for this; see test_slow_learners_learn")
    assert _score(detector, _noise(5)).score.min() > _score(detector, _tiles(20)).score.median()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW_LEARNERS))
def test_slow_learners_learn(name):
    """On smooth tiles, which a network can rebuild: what was far from the tile comes closer."""
    smooth = np.linspace(80, 220, SIDE)[None, :, None, None] + np.random.default_rng(0).uniform(-30, 30, (40, 1, 1, 3))
    images = np.broadcast_to(smooth, (40, SIDE, SIDE, 3)).round().astype(np.uint8)
    torch.manual_seed(0)
    detector = create_detector(name, tile_px=SIDE, **FAST[name])
    detector.prepare(images)
    before = _score(detector, images).score.median()
    optimizers = detector.optimizers()
    for step in range(400):
        batch = np.random.default_rng(step).choice(40, 8, replace=False)
        detector.learn(torch.from_numpy(images[batch]), optimizers, lambda loss: loss.backward())
    assert _score(detector, images).score.median() < 0.75 * before


def test_the_loss_follows_the_weights_of_tiles(detector):
    if not detector.steps:
        pytest.skip("learns without steps")
    images = torch.from_numpy(_tiles(6, seed=4))

    def loss(weights):
        torch.manual_seed(0)
        with torch.inference_mode():
            return float(detector.losses(images, weights)["loss"])

    some, others, none = torch.tensor([1.0, 1, 0, 0, -0.5, 2]), torch.tensor([0.0, 0, 1, 1, 1.5, -1]), torch.zeros(6)
    assert loss(None) == pytest.approx(loss(torch.ones(6)), rel=1e-5)
    assert loss(some) + loss(others) == pytest.approx(loss(torch.ones(6)) + loss(none), rel=1e-4)
    assert loss(none) < loss(None)


def test_saved_and_loaded_it_scores_the_same(detector, tmp_path):
    images = _tiles(6, seed=3)
    before = _score(detector, images).score
    detector.calibration = Calibration.from_scores(np.linspace(0, 1, 30))
    detector.trained_on = ("slide.svs",)
    path = save_detector(detector, tmp_path / "d.safetensors")
    again = load_detector(path)
    assert torch.equal(_score(again, images).score, before)
    assert np.array_equal(again.calibration.scores, detector.calibration.scores)
    assert again.trained_on == ("slide.svs",)
    assert again.settings == detector.settings
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def _robust_and_plain(name):
    """Return (noise, normal) scores of fresh tiles after a plain and a robust fit to tiles with a little noise among them."""
    mixed = np.concatenate([_tiles(60), _noise(4, seed=1)])
    for robust in (False, True):
        detector = create_detector(name, tile_px=SIDE)
        detector.fit(mixed, robust=robust)
        yield _score(detector, _noise(5)).score, _score(detector, _tiles(20, seed=5)).score


def test_robust_fits_bear_a_few_anomalies(detector):
    if detector.network is not None:
        pytest.skip("its scores come from the network")
    _, (noise, normal) = _robust_and_plain(detector.name)
    assert noise.min() > normal.median()


@pytest.mark.parametrize("name", ["texture", "colour"])
def test_a_robust_fit_sets_anomalies_apart_that_a_plain_one_swallows(name):
    plain, robust = (float(noise.mean() / normal.mean()) for noise, normal in _robust_and_plain(name))
    assert robust > plain


@pytest.mark.parametrize("described", describe_detectors(), ids=lambda described: described.name)
def test_class_attributes_describe_the_detector(described):
    detector = create_detector(described.name, tile_px=SIDE)
    assert described.learns_by_steps == (detector.steps > 0)
    assert described.uses_encoder == ({"backbone", "backbone_weights"} <= type(detector.settings).model_fields.keys())
    assert described.summary.endswith(".")


def test_descriptions_list_every_detector():
    assert sorted(described.name for described in describe_detectors()) == sorted(detector_names())


def test_unknown_detector_is_refused_with_the_known_names():
    with pytest.raises(SettingsError, match="choose one of .*texture, vqvae"):
        detector_class("vqvea")


@pytest.mark.parametrize("settings", [{"tile_px": 7}, {"no_such": 1}, {"mpp": 99}, {"tile_px": "wide"}])
def test_bad_settings_are_explained(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        create_detector("vqvae", **settings)


def test_an_untrained_detector_is_not_saved(tmp_path):
    with pytest.raises(BundleError, match="not been trained"):
        save_detector(create_detector("colour"), tmp_path / "d.safetensors")


@pytest.mark.parametrize("error", ["mean", "top_k", "p99", "ssim", "mahalanobis"])
def test_every_kind_of_error_scores_noise_higher(error):
    detector = _fitted("vqvae, pixels")
    detector.settings = detector.settings.model_copy(update={"error": error})
    assert _score(detector, _noise(4)).score.mean() > _score(detector, _tiles(20)).score.mean()


def test_the_latent_error_is_the_distance_to_the_code():
    detector = _fitted("vqvae, pixels")
    images = torch.from_numpy(_tiles(3))
    detector.settings = detector.settings.model_copy(update={"error": "latent"})
    with torch.inference_mode():
        result = detector.score(images)
        out = detector.network(images.permute(0, 3, 1, 2).float() / 255)
    assert result.error_map.shape == (3, SIDE // 8, SIDE // 8)
    assert torch.allclose(result.score, (out.latent - out.code).square().mean((1, 2, 3)))


def test_best_and_fast_name_detectors_that_are_listed_first():
    listed = describe_detectors()
    assert [(known.choice, known.name) for known in listed[:2]] == [("best", "combined"), ("fast", "texture")]
    assert all(known.choice is None for known in listed[2:])
    for known in listed[:2]:
        assert create_detector(known.choice).name == known.name
    with pytest.raises(SettingsError, match="choose one of best, fast, "):
        create_detector("slow")
