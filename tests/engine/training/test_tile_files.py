"""Tile files as training sources, and their scores, as users meet them."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_histoad import train
from napari_histoad.cli._app import app
from napari_histoad.detectors import load_detector
from napari_histoad.engine import TrainingSource, gather_labelled_job, list_labelled_files, score_files_job, train_job
from napari_histoad.errors import SettingsError, TooFewTilesError
from napari_histoad.jobs import run
from napari_histoad.tiles import TileFile, list_tile_files


def _tissue(rng, side, shade):
    return np.clip(np.kron(rng.normal(shade, 25, (8, 8, 3)), np.ones((side // 8, side // 8, 1))), 0, 255).astype(np.uint8)


def _make(folder, count=50, side=48, shade=150, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for k in range(count):
        Image.fromarray(_tissue(rng, side, shade)).save(folder / f"{k:03}.png")
    return folder


def _train(source, tmp_path, **options):
    notes = []
    source = TrainingSource(source, normal_classes=options.pop("normal_classes", ()))
    out = tmp_path / "d.safetensors"
    detector = run(
        train_job([source], out, detector=options.pop("detector", "colour"), settings=options), lambda p: notes.append(p.note)
    )
    return detector, [note for note in notes if note]


def _run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    train(_make(folder / "flat", side=48), folder / "d.safetensors", detector="colour", device="cpu")
    return folder / "d.safetensors"


def test_flat_folder_trains_at_its_tile_size_and_notes_missing_groups(tmp_path):
    detector, notes = _train(_make(tmp_path / "flat", side=56), tmp_path)
    assert detector.settings.tile_px == 56
    assert len(detector.calibration.scores) == 50
    assert "if the files are independent" in detector.calibration.note
    assert "the 50 tiles have no groups" in notes[0]


def test_near_duplicates_in_a_flat_folder_share_a_group(tmp_path):
    folder = _make(tmp_path / "flat")
    for k in range(20):
        Image.open(folder / f"{k:03}.png").transpose(Image.Transpose.ROTATE_90).save(folder / f"{k:03}-turned.png")
    detector, notes = _train(folder, tmp_path)
    assert detector.calibration.basis.groups == 50
    assert detector.calibration.basis.grouping == "clusters of near-duplicate tiles"
    assert "(50 clusters)" in notes[0]


def test_tiles_that_are_all_similar_are_their_own_groups(tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    for k in range(50):
        Image.new("RGB", (48, 48), (150 + k, 100, 160)).save(folder / f"{k}.png")
    detector, _ = _train(folder, tmp_path)
    assert detector.calibration.basis.grouping == "tile files"


def test_training_uses_the_normal_class_only(tmp_path):
    _make(tmp_path / "set" / "stroma", seed=1)
    _make(tmp_path / "set" / "adenoma", 20, shade=60, seed=2)
    with pytest.raises(SettingsError, match="adenoma, stroma.*--normal-class"):
        _train(tmp_path / "set", tmp_path)
    out = tmp_path / "d.safetensors"
    words = _run(
        "train", tmp_path / "set", "--detector", "colour", "--normal-class", "stroma", "--out", out, "--device", "cpu"
    ).stderr
    assert "stroma (50 tiles) used as normal; left out: adenoma (20 tiles)" in words
    by_python = train(tmp_path / "set", out, detector="colour", normal_class="stroma", device="cpu")
    assert len(by_python.calibration.scores) == 50
    assert len(load_detector(out).calibration.scores) == 50


def test_training_continues_after_a_bad_file_and_names_it(tmp_path):
    folder = _make(tmp_path / "flat")
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:60])
    Image.fromarray(np.full((48, 48), 40000, np.uint16)).save(folder / "deep.png")
    detector, notes = _train(folder, tmp_path)
    assert len(detector.calibration.scores) == 50
    (note,) = [note for note in notes if "left out" in note]
    assert "2 of 52 tiles" in note
    assert "cut.png" in note
    assert "deep.png" in note


def test_tiles_are_resized_to_the_nearest_size_that_the_method_accepts(tmp_path):
    folder = _make(tmp_path / "flat", side=56)
    for path in folder.iterdir():
        Image.open(path).crop((0, 0, 50, 50)).save(path)
    detector, notes = _train(folder, tmp_path)
    assert detector.settings.tile_px == 48
    assert any("50 px are resized to 48 px" in note for note in notes)
    said = []
    scores, errors = run(score_files_job(detector, list_tile_files(folder), "cpu"), lambda p: said.append(p.note))
    assert not errors
    assert np.isfinite(scores).all()
    assert any("50 px are resized to 48 px" in note for note in said)


def test_tiles_of_mixed_sizes_need_a_chosen_size(tmp_path):
    folder = _make(tmp_path / "flat")
    Image.new("RGB", (64, 64)).save(folder / "large.png")
    with pytest.raises(SettingsError, match=r"of several sizes: 48 x 48 px \(50\), 64 x 64 px \(1\); .*--tile-px"):
        _train(folder, tmp_path)
    _, notes = _train(folder, tmp_path, tile_px=32)
    assert any("resized to 32 px: 48 x 48 px (50), 64 x 64 px (1)" in note for note in notes)


def test_scoring_continues_after_bad_tiles_and_names_them(model, tmp_path):
    folder = _make(tmp_path / "tiles", 5, side=48, seed=3)
    (folder / "002.png").write_bytes(b"nothing")
    Image.new("RGB", (64, 64)).save(folder / "large.png")
    out = tmp_path / "scores.csv"
    result = _run("score", folder, "--model", model, "--out", out, "--device", "cpu", "--json", code=1)
    document = json.loads(result.stdout)
    assert document["tiles"] == 4
    assert [failed["file"] for failed in document["failed"]] == ["002.png", "large.png"]
    assert "002.png" in result.stderr
    with out.open(newline="") as handle:
        rows = {row["file"]: row for row in csv.DictReader(handle)}
    assert [name for name, row in rows.items() if not row["score"]] == ["002.png", "large.png"]
    assert "64 x 64 px, but the detector needs 48 x 48" in rows["large.png"]["problem"]
    assert all(float(row["score"]) >= 0 and not row["problem"] for row in rows.values() if row["score"])
    (folder / "002.png").unlink()
    assert json.loads(_run("score", folder, "--model", model, "--out", out, "--resize", "--json").stdout)["tiles"] == 5
    (tmp_path / "m.csv").write_text(
        "file,label\n" + "".join(f"tiles/{k:03}.png,{k % 2}\n" for k in (0, 1, 3)) + "tiles/gone.png,1\n"
    )
    _run("score", tmp_path / "m.csv", "--model", model, "--out", out, code=1)
    evaluated = json.loads(_run("evaluate", out, "--truth", tmp_path / "m.csv", "--json").stdout)
    assert "auroc" in {key.lower() for key in evaluated}


def test_scoring_only_bad_tiles_raises_one_error(model, tmp_path):
    folder = _make(tmp_path / "tiles", 3, side=64)
    words = _run("score", folder, "--model", model, "--out", tmp_path / "s.csv", code=2).stderr
    assert "64 x 64 px, but the detector needs 48 x 48; add --resize" in words
    assert not (tmp_path / "s.csv").exists()


def test_transparent_tiles_score_as_on_white(model, tmp_path):
    rng = np.random.default_rng(0)
    half = _tissue(rng, 48, 150)
    half[:24] = 255
    clear = np.dstack([half, np.where(np.arange(48)[:, None].repeat(48, 1) < 24, 0, 255).astype(np.uint8)])
    clear[:24, :, :3] = 0
    Image.fromarray(half).save(tmp_path / "a.png")
    Image.fromarray(clear).save(tmp_path / "b.png")
    scores, _ = run(score_files_job(load_detector(model), [TileFile(tmp_path / f"{n}.png", n, None, n) for n in "ab"], "cpu"))
    assert scores[0] == scores[1]


def test_labelled_tiles_are_grouped_by_patient_and_skip_bad_files(tmp_path):
    for patient in ("p1", "p2"):
        for kind, shade in (("normal", 150), ("tumour", 60)):
            _make(tmp_path / "set" / patient / kind, 8, shade=shade)
    (tmp_path / "set" / "p1" / "normal" / "bad.png").write_bytes(b"")
    files = list_labelled_files(tmp_path / "set")
    assert {file.group for file in files} == {"p1", "p2"}
    notes = []
    data = run(gather_labelled_job([TrainingSource(tmp_path / "set")], 48, None), lambda p: notes.append(p.note))
    assert data.classes == ("normal", "tumour")
    assert np.bincount(data.labels).tolist() == [16, 16]
    assert len(data.tiles) == 32
    assert any("bad.png" in note for note in notes)


@pytest.mark.parametrize("seed", ["-1", str(2**40)])
def test_commands_refuse_seeds_out_of_range(tmp_path, seed):
    for command in (["train"], ["classify", "train"]):
        assert "--seed" in _run(*command, tmp_path, "--out", tmp_path / "d.safetensors", "--seed", seed, code=2).output


def test_manifest_of_patients_and_classes_goes_through_train_score_and_evaluate(tmp_path):
    """Cells of 50 px in JPEG and grey PNG, with further columns, patients with both labels, and an ambiguous class name."""
    rng = np.random.default_rng(0)
    rows = ["file,class,label,group,magnification,field,verified"]
    shades = {"healthy": 150, "negative_window_positive_patient": 155, "parasite": 90, "polyp": 148}
    for k, (name, shade) in enumerate(list(shades.items()) * 30):
        file = f"{name}_{k}.{'jpg' if k % 3 else 'png'}"
        picture = Image.fromarray(np.asarray(Image.fromarray(_tissue(rng, 48, shade)).resize((50, 50))))
        (picture if k % 3 else picture.convert("L")).save(tmp_path / file)
        label = int(name in ("parasite", "polyp"))
        rows.append(f'{file},{name},{label},patient {k // 8},"40x (level 0, 0.24 um/px)",f{k},{"window" if k % 2 else ""}')
    manifest, model, table = tmp_path / "manifest.csv", tmp_path / "d.safetensors", tmp_path / "scores.csv"
    manifest.write_text("\n".join(rows))
    trained = _run("train", manifest, "--detector", "colour", "--out", model)
    assert "of 15 groups of tile files" in trained.output
    _run("score", manifest, "--model", model, "--out", table)
    found = json.loads(_run("evaluate", table, "--truth", manifest, "--json").stdout)
    assert (found["tiles"], found["anomalous_tiles"], found["groups"]) == (120, 60, 15)
    assert set(found["by_class"]) == set(shades)
    assert found["by_class"]["parasite"]["auroc"]["value"] > 0.95 > found["by_class"]["polyp"]["auroc"]["value"]
    assert "healthy" in _run("evaluate", table, "--truth", manifest).output


def test_few_tile_files_ask_for_more_tiles(tmp_path):
    with pytest.raises(TooFewTilesError, match="only 20 normal tiles .* add tiles of normal tissue"):
        _train(_make(tmp_path / "few", 20), tmp_path)
