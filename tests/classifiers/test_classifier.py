"""Every classifier trains, saves, loads and says the same; what it looks at is what it was given."""

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.svm import SVC
from striped_tiles import labelled

from napari_histoad.classifiers import (
    NETWORKS,
    Classifier,
    ClassifierSettings,
    class_weights,
    has_classifier,
    load_classifier,
    read_classifier_header,
    relevance,
    save_classifier,
)
from napari_histoad.detectors import create_detector, load_detector, save_detector
from napari_histoad.engine import explain_tile, fit_classifier_job, fit_job, predict_job, predict_prepared, prepare_job
from napari_histoad.errors import BundleError, SettingsError, TrainingError
from napari_histoad.jobs import run

QUICK = {"tile_px": 64, "epochs": 1, "batch": 16}


def _probabilities(classifier, data):
    return run(predict_job(classifier, data.tiles.images, "cpu"))


@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "separable_cnn"])
def test_classifier_predicts_the_same_after_saving_and_loading(name, tiles, tmp_path):
    settings = ClassifierSettings(networks=(name,), **QUICK)
    classifier = run(fit_classifier_job(settings, tiles, device="cpu"))
    said = _probabilities(classifier, tiles)
    assert said.shape == (48, 2)
    assert np.allclose(said.sum(1), 1, atol=1e-5)
    again = load_classifier(save_classifier(classifier, tmp_path / "c.safetensors", {"auroc": 0.5}))
    assert np.array_equal(_probabilities(again, tiles), said)
    assert again.settings == settings
    assert again.trained_on == ("made.csv",)
    assert read_classifier_header(tmp_path / "c.safetensors").report == {"auroc": 0.5}


def test_separable_cnn_predicts_the_same_after_saving_and_loading(tmp_path):
    data = labelled(40, side=96)
    settings = ClassifierSettings(networks=("separable_cnn",), tile_px=96, epochs=1, batch=16)
    classifier = run(fit_classifier_job(settings, data, device="cpu"))
    again = load_classifier(save_classifier(classifier, tmp_path / "c.safetensors"))
    assert np.array_equal(_probabilities(again, data), _probabilities(classifier, data))


def test_fit_classifier_job_learns_separable_classes_and_stops_early(tiles):
    settings = ClassifierSettings(networks=("base_cnn",), tile_px=64, epochs=40, batch=16, learning_rate=3e-3, patience=8)
    classifier = run(fit_classifier_job(settings, tiles, device="cpu", seed=1))
    fresh = labelled(40, seed=7)
    assert (_probabilities(classifier, fresh).argmax(1) == fresh.labels).mean() > 0.9


def test_ensemble_weighted_by_validation_averages_its_networks_for_three_classes(tmp_path):
    data = labelled(90, classes=("normal", "fine", "finer"))
    settings = ClassifierSettings(networks=("base_cnn", "vggnet"), seeds=2, weighting="validation", classes=data.classes, **QUICK)
    classifier = run(fit_classifier_job(settings, data, device="cpu"))
    assert len(classifier.members) == 4
    assert classifier.shares.sum() == pytest.approx(1, abs=1e-6)
    assert len(set(classifier.shares.tolist())) > 1
    assert len(set(classifier.temperatures.tolist())) > 1
    images = torch.from_numpy(data.tiles.images[:5])
    with torch.inference_mode():
        stack = classifier.stack(images)
        parts = [
            torch.softmax(member(stack) / t, 1) * share
            for member, t, share in zip(classifier.members, classifier.temperatures, classifier.shares, strict=True)
        ]
        assert torch.allclose(classifier.probabilities(images), torch.stack(parts).sum(0), atol=1e-6)
    again = load_classifier(save_classifier(classifier, tmp_path / "c.safetensors"))
    assert np.array_equal(_probabilities(again, data), _probabilities(classifier, data))


@pytest.mark.parametrize("inputs", [("image", "error"), ("image", "reconstruction", "error"), ("error",)])
def test_save_classifier_stores_the_detector_in_the_same_file(inputs, tiles, detector, tmp_path):
    settings = ClassifierSettings(networks=("base_cnn",), inputs=inputs, **QUICK)
    classifier = run(fit_classifier_job(settings, tiles, detector=detector, device="cpu"))
    said = _probabilities(classifier, tiles)
    file = save_classifier(classifier, tmp_path / "both.safetensors")
    assert np.array_equal(_probabilities(load_classifier(file), tiles), said)
    again = load_detector(file)
    with torch.inference_mode():
        images = torch.from_numpy(tiles.tiles.images[:4])
        assert torch.equal(again.score(images).score, detector.score(images).score)
        # In one pass: with the scores at hand the detector is not asked again.
        scores = again.score(images)
        assert torch.equal(classifier.probabilities(images, scores), classifier.probabilities(images))
    assert np.array_equal(again.calibration.scores, detector.calibration.scores)
    assert has_classifier(file)
    assert not has_classifier(save_detector(detector, tmp_path / "alone.safetensors"))


def test_stack_standardises_error_maps_by_the_training_tiles(tiles, detector):
    settings = ClassifierSettings(networks=("base_cnn",), inputs=("error",), **QUICK)
    classifier = run(fit_classifier_job(settings, tiles, detector=detector, device="cpu"))
    with torch.inference_mode():
        stack = classifier.stack(torch.from_numpy(tiles.tiles.images))
    assert stack.shape == (48, 1, 64, 64)
    assert stack.mean().abs() < 0.1
    assert 0.5 < stack.std() < 2.5  # pooled cells set the scale


@pytest.mark.parametrize("network", ["texture", "base_cnn"])
def test_fit_classifier_job_gives_the_same_classifier_with_prepared_inputs(network, tiles, detector):
    settings = ClassifierSettings(networks=(network,), inputs=("image", "error"), **QUICK)
    prepared = run(prepare_job(Classifier(settings, detector), tiles.tiles.images, "cpu"))
    assert (prepared.stack is None) == (network == "texture")
    one = run(fit_classifier_job(settings, tiles, detector=detector, prepared=prepared, device="cpu"))
    two = run(fit_classifier_job(settings, tiles, detector=detector, device="cpu"))
    assert torch.equal(one.error_scale, two.error_scale)
    assert np.allclose(_probabilities(one, tiles), _probabilities(two, tiles), atol=1e-6)
    rows = np.array([3, 1, 40])
    assert np.allclose(predict_prepared(one, prepared, rows, "cpu"), _probabilities(one, tiles)[rows], atol=0.02)


def test_classifier_with_centre_crop_ignores_pixels_outside_the_centre(tiles):
    settings = ClassifierSettings(networks=("base_cnn",), centre="crop", centre_px=32, **QUICK)
    classifier = run(fit_classifier_job(settings, tiles, device="cpu"))
    images = tiles.tiles.images[:4].copy()
    before = run(predict_job(classifier, images, "cpu"))
    images[:, :16] = images[:, -16:] = images[:, :, :16] = images[:, :, -16:] = 0
    assert np.array_equal(run(predict_job(classifier, images, "cpu")), before)
    where, _ = relevance(classifier, torch.from_numpy(images), 1)
    assert where.shape == (4, 64, 64)
    assert (where[:, :16] == 0).all()


@pytest.mark.parametrize(("network", "method"), [("base_cnn", "Grad-CAM"), ("texture", "Class activation")])
def test_relevance_is_highest_where_a_tile_differs(network, method):
    """Half of each anomalous tile is normal: the evidence is in the other half."""
    data = labelled(80, seed=3)
    fresh = labelled(20, seed=4)
    for part in (data, fresh):
        normal = part.tiles.images[part.labels == 0]
        part.tiles.images[part.labels == 1, :, :32] = normal[:, :, :32]
    settings = ClassifierSettings(
        networks=(network,), tile_px=64, epochs=25, batch=16, learning_rate=3e-3, patience=25, augment=False
    )
    clear = []
    for seed in range(3):  # one network in six or so takes the tile as a whole, and says so
        classifier = run(fit_classifier_job(settings, data, device="cpu", seed=seed))
        where, found_by = relevance(classifier, torch.from_numpy(fresh.tiles.images[fresh.labels == 1]), 1)
        assert found_by == method
        assert where.min() >= 0
        assert where.amax((1, 2)) == pytest.approx(torch.ones(10), abs=1e-5)
        clear.append(bool(where[:, :, 36:].mean() > 1.5 * where[:, :, :28].mean()))
    assert sum(clear) >= 2


def test_explain_tile_returns_reconstruction_error_map_and_relevance(tiles, detector):
    settings = ClassifierSettings(networks=("base_cnn",), inputs=("image", "error"), **QUICK)
    classifier = run(fit_classifier_job(settings, tiles, detector=detector, device="cpu"))
    found = explain_tile(classifier, tiles.tiles.images[0], device="cpu")
    assert found.probability >= 0.5
    assert found.relevance.shape == found.error.shape == (64, 64)
    assert found.reconstruction.shape == (64, 64, 3)
    assert explain_tile(classifier, tiles.tiles.images[0], 1 - found.target, "cpu").probability <= 0.5
    alone = explain_tile(detector, tiles.tiles.images[0], device="cpu")
    assert np.array_equal(alone.error, found.error)
    assert alone.target is alone.relevance is None


def test_explain_tile_refuses_a_detector_without_error_map(tiles):
    detector = run(fit_job(create_detector("colour", tile_px=64), tiles.tiles, device="cpu"))
    with pytest.raises(SettingsError, match="one score per tile") as caught:
        explain_tile(detector, tiles.tiles.images[0], device="cpu")
    assert "vqvae" in caught.value.remedy


def test_texture_classifier_equals_a_support_vector_machine(tiles, tmp_path):
    classifier = run(fit_classifier_job(ClassifierSettings(networks=("texture",), **QUICK), tiles, device="cpu"))
    body, head = classifier.members[0].body, classifier.members[0].head
    fresh = labelled(20, seed=9)
    with torch.inference_mode():
        maps = [body(classifier.stack(torch.from_numpy(t.tiles.images))) for t in (tiles, fresh)]
        said, far = head(maps[1]), head(4 * maps[1])
        learnt, new = (m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps)
    assert maps[0].shape[2:] == (3, 3)
    machine = SVC(C=10, kernel="precomputed", class_weight="balanced")
    machine.fit(head.kernel(learnt, learnt).double().numpy(), np.repeat(tiles.labels, 9))
    theirs = machine.decision_function(head.kernel(new, learnt).double().numpy()).reshape(20, 9).mean(1)
    assert said[:, 1].numpy() == pytest.approx(theirs, abs=1e-3)
    assert said[:, 0].numpy() == pytest.approx(-theirs, abs=1e-3)
    # Tiles unlike all of training are told by the side on which they lie.
    assert (far.argmax(1).numpy() == fresh.labels).all()
    assert far.std() > 0.1


def test_class_weights_are_higher_for_rare_classes():
    weights = class_weights([0] * 30 + [1] * 10, 2)
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])


def test_fit_classifier_job_gives_the_same_classifier_for_the_same_seed(tiles):
    settings = ClassifierSettings(networks=("base_cnn",), **QUICK)
    one, two, other = (_probabilities(run(fit_classifier_job(settings, tiles, device="cpu", seed=s)), tiles) for s in (0, 0, 1))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_classifier_refuses_detectors_and_files_that_do_not_fit(tiles, detector, tmp_path):
    both = ClassifierSettings(inputs=("image", "error"), tile_px=64)
    with pytest.raises(SettingsError, match="needs error from a detector.*--model"):
        Classifier(both)
    with pytest.raises(SettingsError, match="tiles of 64 px, the classifier of 128"):
        Classifier(both.model_copy(update={"tile_px": 128}), detector)
    with pytest.raises(SettingsError, match="colour computes no error"):
        Classifier(both, create_detector("colour", tile_px=64))
    alone = run(fit_classifier_job(ClassifierSettings(networks=("base_cnn",), **QUICK), tiles, device="cpu"))
    file = save_classifier(alone, tmp_path / "c.safetensors")
    with pytest.raises(BundleError, match="a classifier but no detector"):
        load_detector(file)
    with pytest.raises(BundleError, match="contains no classifier"):
        load_classifier(save_detector(detector, tmp_path / "d.safetensors"))
    tensors, metadata = safetensors.torch.load_file(file), None
    with safetensors.safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    tensors.pop("classifier.shares")
    safetensors.torch.save_file(tensors, tmp_path / "broken.safetensors", metadata=metadata)
    with pytest.raises(BundleError, match="do not match its header"):
        load_classifier(tmp_path / "broken.safetensors")


@pytest.mark.parametrize("step", [0, 4])
def test_fit_classifier_job_refuses_a_diverging_training(tiles, monkeypatch, step):
    real, taken = torch.optim.AdamW.step, []

    def poisoned(self, closure=None):
        real(self, closure)
        taken.append(1)
        if len(taken) > step:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(torch.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", poisoned)
    settings = ClassifierSettings(networks=("base_cnn",), **{**QUICK, "epochs": 3})
    with pytest.raises(TrainingError, match=r"base_cnn diverged in epoch \d: .*lower learning rate"):
        run(fit_classifier_job(settings, tiles, device="cpu"))


@pytest.mark.parametrize(("frozen_epochs", "same"), [(1, True), (0, False)])
def test_fit_classifier_job_does_not_change_a_frozen_body(tiles, frozen_epochs, same):
    """The means and deviations of batch norm are weights too."""
    settings = ClassifierSettings(networks=("resnet18",), pretrained=True, frozen_epochs=frozen_epochs, **QUICK)
    torch.manual_seed(0)
    start = Classifier(settings).members[0].state_dict()
    found = run(fit_classifier_job(settings, tiles, device="cpu", seed=0)).members[0].state_dict()
    kept = {name for name in start if torch.equal(start[name], found[name])}
    body = {name for name in start if name.startswith("body.")}
    assert any("running_mean" in name for name in body)
    assert (body <= kept) is same
    assert not {name for name in start if name.startswith("head.")} <= kept
