import numpy as np
import pytest
import torch
from PIL import Image

from napari_histoad import load_detector, train, write_geojson
from napari_histoad.detectors import create_detector, features_of
from napari_histoad.engine import (
    TrainingSource,
    choose_device,
    fit_job,
    gather_job,
    gather_labelled_job,
    score_images,
    train_job,
    training_sources,
)
from napari_histoad.errors import DeviceError, MissingMppError, OutputError, RegionError, SettingsError, TooFewTilesError
from napari_histoad.jobs import run
from napari_histoad.regions import Region
from napari_histoad.tiles import TileSet

SMALL = {"tile_px": 64, "max_steps": 12, "batch": 4}


@pytest.fixture(scope="module")
def tiles():
    rng = np.random.default_rng(0)
    images = rng.integers(100, 230, (120, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    return TileSet(images, np.arange(120) // 10, ("made up",))


def _fit(tiles, **options):
    torch.manual_seed(0)
    return fit_job(create_detector("vqvae", **SMALL), tiles, device="cpu", **options)


def test_training_reports_losses_and_pictures_and_calibrates(tiles):
    events = []
    detector = run(_fit(tiles), events.append)
    steps = [e for e in events if e.stage == "Training"]
    assert steps[-1].done == 12
    assert {"loss", "reconstruction", "perplexity", "held-out loss"} <= set(steps[-1].metrics)
    assert any(e.preview is not None and e.preview.shape == (64, 128, 3) for e in steps)
    assert 20 <= len(detector.calibration.scores) <= 40
    assert detector.trained_on == ("made up",)


def test_training_is_repeatable_with_the_same_seed(tiles):
    one, two = (run(_fit(tiles)) for _ in range(2))
    assert np.array_equal(score_images(one, tiles.images[:8], "cpu"), score_images(two, tiles.images[:8], "cpu"))


def test_features_computed_before_give_the_same_detector(tiles, monkeypatch):
    one, two = (create_detector("colour", tile_px=64) for _ in range(2))
    run(fit_job(one, tiles, device="cpu"))
    features = features_of(two.features, tiles.images, torch.device("cpu"))
    monkeypatch.setattr(two, "features", None)
    run(fit_job(two, tiles, device="cpu", features=features))
    np.testing.assert_array_equal(one.calibration.scores, two.calibration.scores)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))


def test_training_ignores_environment_variables_of_a_cluster(tiles, monkeypatch):
    """A job of SLURM's with several tasks is no order to train in all of them."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    detector = create_detector("vqvae", tile_px=64, max_steps=2)
    run(fit_job(detector, tiles, device="cpu"))
    assert detector.calibration is not None


def test_interrupted_training_resumes_to_the_same_weights(tiles, tmp_path):
    undisturbed = run(_fit(tiles))
    checkpoint = tmp_path / "c"
    job = _fit(tiles, checkpoint=checkpoint)
    for progress in job:
        if progress.stage == "Training" and progress.done == 7:
            break
    job.close()
    assert checkpoint.exists()
    events = []
    resumed = run(_fit(tiles, checkpoint=checkpoint), events.append)
    assert next(e for e in events if e.stage == "Training").done == 6  # the last check before the cut
    assert np.array_equal(score_images(resumed, tiles.images[:8], "cpu"), score_images(undisturbed, tiles.images[:8], "cpu"))


def test_training_ignores_a_damaged_checkpoint(tiles, tmp_path):
    (tmp_path / "c").write_bytes(b"PK\x03\x04 nonsense")
    assert run(_fit(tiles, checkpoint=tmp_path / "c")).calibration is not None


def test_training_writes_only_the_detector_file(sample, tmp_path):
    detector = train(sample.path, tmp_path / "d.safetensors", normal=sample.plan.normal, device="cpu", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]
    again = load_detector(tmp_path / "d.safetensors")
    assert np.array_equal(again.calibration.scores, detector.calibration.scores)
    assert again.trained_on == ("sample.tif",)


def test_training_on_tile_files_uses_label_0_only(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["file,label,group"]
    for i in range(80):
        label = int(i >= 60)
        Image.fromarray(rng.integers(0, 100, (40, 40, 3), np.uint8) + np.uint8(150 * label)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{label},{i // 4}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    detector = run(
        train_job(
            [TrainingSource(tmp_path / "manifest.csv")], tmp_path / "d.safetensors", detector="colour", settings={"tile_px": 40}
        )
    )
    bright, dark = np.full((4, 40, 40, 3), 220, np.uint8), rng.integers(0, 100, (4, 40, 40, 3), np.uint8)
    assert score_images(detector, bright, "cpu").min() > score_images(detector, dark, "cpu").max()


def test_training_sources_pair_slides_with_normal_outlines(tmp_path, sample):
    path = tmp_path / "a.geojson"
    write_geojson([*sample.plan.planted, *sample.plan.normal], path)
    sources = training_sources([sample.path], str(path), None)
    assert len(sources[0].regions) == len(sample.plan.normal)
    with pytest.raises(RegionError, match="2 slides but 1"):
        training_sources([sample.path] * 2, [str(path)], None)
    write_geojson(sample.plan.planted, path)
    with pytest.raises(RegionError, match="no outline of the class Normal"):
        training_sources([sample.path], [path], None)


def test_training_refuses_bad_input_and_writes_nothing(sample, tmp_path, write_tiff):
    from shapely.geometry import box

    def check(kind, word, slide=sample.path, **options):
        out = tmp_path / "out" / "d.safetensors"
        with pytest.raises(kind, match=word):
            train(slide, out, device="cpu", **{"detector": "colour", "tile_px": 64, **options})
        assert not list(out.parent.glob("*"))

    check(RegionError, "no tile of", normal=[Region(box(0, 0, 100, 100))])
    check(TooFewTilesError, "normal tiles of 200 px", tile_px=200, normal=sample.plan.normal[:1])
    check(SettingsError, "finer than the slide", mpp=0.1)
    blank = write_tiff(np.full((256, 256, 3), 240, np.uint8), mpp=None)
    check(MissingMppError, "does not state its resolution", slide=blank)
    check(SettingsError, "no detector named", detector="x")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        train(sample.path, tmp_path / "file" / "d.safetensors", detector="colour")


@pytest.mark.parametrize(
    ("name", "word"), [("cuda:99", "not available"), ("toaster", "unknown device"), ("meta", "not supported")]
)
def test_choose_device_refuses_unavailable_devices(name, word):
    with pytest.raises(DeviceError, match=word):
        choose_device(name)


def test_scoring_refuses_tiles_of_another_size(detector_file):
    with pytest.raises(SettingsError, match="tiles of 64x64 px, these are 32x32x3"):
        score_images(load_detector(detector_file), np.zeros((2, 32, 32, 3), np.uint8), "cpu")


def test_detector_trained_in_srgb_maps_in_srgb(sample, tmp_path):
    """A slide with a profile scores as its converted copy without one does."""
    import tifffile
    from slide_writers import linear_profile

    from napari_histoad import map_slide, open_slide

    with open_slide(sample.path) as slide:
        pixels = slide.read(0, 500, 500, 900, 900)
    options = {
        "tile": (128, 128),
        "photometric": "rgb",
        "resolution": (2e4, 2e4),
        "resolutionunit": "CENTIMETER",
        "metadata": None,
    }
    tifffile.imwrite(tmp_path / "scanned.tif", pixels, iccprofile=linear_profile(), **options)
    with open_slide(tmp_path / "scanned.tif", srgb=True) as slide:
        tifffile.imwrite(tmp_path / "converted.tif", slide.read(0, 0, 0, 900, 900), **options)
    scores = {}
    for name, srgb in (("scanned", True), ("converted", False), ("scanned", False)):
        model = tmp_path / f"{name}-{srgb}.safetensors"
        train(tmp_path / f"{name}.tif", model, detector="colour", tile_px=64, srgb=srgb, device="cpu")
        scores[name, srgb] = map_slide(tmp_path / f"{name}.tif", tmp_path / f"{name}-{srgb}", model=model, device="cpu").scores
    assert np.allclose(scores["scanned", True], scores["converted", False], rtol=1e-5)
    assert not np.allclose(scores["scanned", True], scores["scanned", False], rtol=1e-2)


@pytest.mark.parametrize("seed", range(8))
def test_validation_tiles_come_from_several_outlines(seed):
    """With few outlines, validation uses tiles of all of them, so that one with only fat does not decide alone."""
    from napari_histoad.engine.training._gradient_descent import _split

    rng = np.random.default_rng(seed)
    few = TileSet(np.zeros((200, 1, 1, 3), np.uint8), np.arange(200) // 50)
    learnt, checked = _split(few, rng)
    assert set(few.groups[learnt]) == set(few.groups[checked]) == {0, 1, 2, 3}
    assert sorted([*learnt, *checked]) == list(range(200))
    many = TileSet(few.images, np.arange(200) // 10)
    learnt, checked = _split(many, rng)
    assert not set(many.groups[learnt]) & set(many.groups[checked])


def test_growing_network_is_saved_only_when_fully_grown(tiles):
    """Its loss on whole tiles stands still until the outermost stage is trained; that must not end the training."""
    detector = create_detector("perceptual_autoencoder", tile_px=64, growing=True, max_steps=40, batch=4, width=4)
    events = []
    run(fit_job(detector, tiles, device="cpu"), events.append)
    assert max(e.done for e in events if e.stage == "Training") == 40
    assert detector.fully_grown
    assert int(detector.network.step) >= 32  # the last fifth


def test_notes_of_a_source_are_reported_once(sample):
    noted = TrainingSource(sample.path, sample.plan.normal, notes=("read as drawn.", "two outlines were left out."))
    seen = []
    run(gather_job([noted, TrainingSource(sample.path, sample.plan.normal)], 64, 1.0, max_tiles=100), seen.append)
    assert [progress.note for progress in seen if progress.note in noted.notes] == list(noted.notes)
    seen.clear()
    named = TrainingSource(sample.path, [*sample.plan.normal, *sample.plan.planted], notes=noted.notes)
    run(gather_labelled_job([named], 64, 1.0, max_tiles=100), seen.append)
    assert [progress.note for progress in seen if progress.note] == list(noted.notes)


@pytest.mark.parametrize("sizes", [(24, 24), (41, 12), (47, 6), (6, 47), (52, 1), (1,) * 48])
@pytest.mark.parametrize(("method", "refine"), [("vqvae", None), ("vqvae", "neighbours"), ("colour", None), ("texture", "svm")])
def test_training_needs_only_48_tiles_of_two_groups(tiles, sizes, method, refine):
    few = TileSet(tiles.images[: sum(sizes)], np.repeat(np.arange(len(sizes)), sizes), grouping="outlines")
    settings = {"tile_px": 64, "max_steps": 2, "batch": 4} if method == "vqvae" else {"tile_px": 64}
    detector = run(fit_job(create_detector(method, **settings), few, device="cpu", refine=refine))
    basis = detector.calibration.basis
    assert basis.tiles == len(detector.calibration.scores) >= 10
    assert ("beside" in basis.doubts) is (len(sizes) == 2 and min(sizes) < (10 if refine is None else 13))
    assert basis.groups <= len(sizes)


@pytest.mark.parametrize("groups", [np.zeros(80), np.arange(19)])
@pytest.mark.parametrize("method", ["vqvae", "texture"])
def test_training_refuses_tiles_that_cannot_calibrate_before_it_starts(tiles, groups, method):
    events = []
    few = TileSet(tiles.images[: len(groups)], groups.astype(np.int64))
    with pytest.raises(TooFewTilesError):
        run(fit_job(create_detector(method, tile_px=64), few, device="cpu"), events.append)
    assert not events


@pytest.fixture(scope="module")
def with_a_rare_tissue(tiles):
    """A tenth of the tiles is white, in every group one."""
    images = tiles.images.copy()
    images[::10] = 255
    return TileSet(images, tiles.groups, tiles.sources)


@pytest.mark.parametrize("method", ["colour", "vqvae"])
def test_all_normal_tissue_is_used_for_fit_and_calibration(with_a_rare_tissue, method):
    """Of tissue that may hold lesions what is rare counts in neither."""
    settings = {"error": "residuals", "max_steps": 2, "batch": 4} if method == "vqvae" else {}
    rare = with_a_rare_tissue.images[::10]
    p_of, counted, said = {}, {}, {}
    for robust in (False, True):
        detector = run(fit_job(create_detector(method, tile_px=64, **settings), with_a_rare_tissue, device="cpu", robust=robust))
        p_of[robust] = detector.calibration.p_value(score_images(detector, rare, "cpu"))
        counted[robust], said[robust] = detector.calibration.basis.tiles, detector.calibration.basis.doubts
    assert p_of[True].max() < 0.05 < p_of[False].min()
    assert counted[True] < counted[False]
    assert said == {False: (), True: ("mixed",)}


@pytest.mark.parametrize(("normal", "mixed"), [(None, False), ("all-tissue", False), ("mixed-tissue", True)])
def test_all_tissue_and_mixed_tissue_reach_fit_and_file(sample, tmp_path, normal, mixed, monkeypatch):
    fitted = []
    cls = type(create_detector("colour"))
    real = cls.fit_features
    monkeypatch.setattr(
        cls, "fit_features", lambda self, codes, *, robust=False: fitted.append(robust) or real(self, codes, robust=robust)
    )
    train(sample.path, tmp_path / "d.safetensors", normal=normal, detector="colour", tile_px=64, device="cpu")
    assert set(fitted) == {mixed}
    note = load_detector(tmp_path / "d.safetensors").calibration.note
    assert ("may contain lesions" in note) is mixed


def test_outlines_and_all_tissue_can_be_mixed_over_slides(sample, tmp_path):
    write_geojson(sample.plan.normal, tmp_path / "a.geojson")
    sources = training_sources([sample.path] * 3, [tmp_path / "a.geojson", "all-tissue", "mixed-tissue"], None)
    assert [(s.regions is None, s.mixed) for s in sources] == [(False, False), (True, False), (True, True)]
    assert [s.mixed for s in training_sources([sample.path] * 3, "mixed-tissue", None)] == [True] * 3


def test_gathering_reports_assumptions_about_a_slide(sample):
    source = TrainingSource(sample.path, [*sample.plan.normal, *sample.plan.planted], slide_mpp=0.25)
    for gather in (gather_job, gather_labelled_job):
        seen = []
        run(gather([source], 64, 1.0, max_tiles=100), seen.append)
        stated = [p.note for p in seen if "sample.tif: The file states 0.5 µm per pixel, which is used" in (p.note or "")]
        assert len(stated) == 1
