"""``histoad classify``, from labelled tiles and from a slide with named outlines."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from striped_tiles import labelled
from typer.testing import CliRunner

from napari_histoad.cli._app import app
from napari_histoad.regions import Region, write_geojson


def _run(*args, code=0):
    result = CliRunner().invoke(app, ["classify", *(str(a) for a in args)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiles of two classes as files with a manifest."""
    path = tmp_path_factory.mktemp("tiles")
    data = labelled(80)
    with (path / "manifest.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["file", "class", "label", "group"])
        for k, (image, label) in enumerate(zip(data.tiles.images, data.labels, strict=True)):
            Image.fromarray(image).save(path / f"{k}.png")
            table.writerow([f"{k}.png", data.classes[label], label, data.tiles.groups[k]])
    return path


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "c.safetensors"
    settings = out.with_suffix(".yaml")
    settings.write_text("epochs: 30\nbatch: 16\nlearning_rate: 0.003\n")
    options = ("--network", "base_cnn", "--tile-px", 64, "--folds", 2, "--settings", settings, "--device", "cpu")
    result = _run("train", folder / "manifest.csv", "--out", out, *options, "--json")
    document = json.loads(result.stdout)
    assert document["classes"] == {"normal": 40, "anomalous": 40}
    assert document["report"]["folds"] == 2
    assert document["report"]["tiles"] == 80
    assert document["report"]["auroc"]["low"] <= document["report"]["auroc"]["value"] <= document["report"]["auroc"]["high"]
    return out


def test_predict_writes_a_table_and_measures_labelled_tiles(folder, model, tmp_path):
    out = tmp_path / "classes.csv"
    document = json.loads(_run("predict", folder / "manifest.csv", "--model", model, "--out", out, "--json").stdout)
    assert document["report"]["accuracy"]["value"] > 0.8
    with out.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 80
    assert set(rows[0]) == {"file", "class", "p_normal", "p_anomalous"}
    assert all(float(row["p_normal"]) + float(row["p_anomalous"]) == pytest.approx(1, abs=1e-4) for row in rows)
    plain = tmp_path / "plain"
    plain.mkdir()
    Image.open(folder / "0.png").save(plain / "0.png")
    words = _run("predict", plain, "--model", model, "--out", out).stdout
    assert "1 tiles" in words
    assert "Accuracy" not in words  # nothing says what it should be


def test_explain_writes_pictures(folder, model, tmp_path):
    _run("explain", folder / "0.png", folder / "1.png", "--model", model, "--out", tmp_path / "why")
    pictures = sorted(p.name for p in (tmp_path / "why").iterdir())
    assert pictures == ["0.explained.png", "1.explained.png"]
    with Image.open(tmp_path / "why" / "0.explained.png") as picture:
        assert picture.width > 600  # tile and Grad-CAM
    assert "has no class" in _run("explain", folder / "0.png", "--model", model, "--class", "x", code=2).output


def test_train_on_a_slide_with_named_outlines_and_a_detector_is_mapped(sample, detector_file, tmp_path):
    outlines, out = tmp_path / "classes.geojson", tmp_path / "c.safetensors"
    write_geojson([*sample.plan.normal, *(Region(r.geometry, "Anomaly") for r in sample.plan.planted)], outlines)
    settings = tmp_path / "s.yaml"
    settings.write_text("epochs: 1\n")
    options = ("--model", detector_file, "--input", "image", "--input", "error", "--network", "base_cnn", "--folds", 0)
    rest = ("--settings", settings, "--max-tiles", 120, "--device", "cpu")
    words = _run("train", sample.path, "--regions", outlines, "--out", out, *options, *rest).stdout
    assert "the detector was trained on sample.tif" in words
    assert "Normal (" in words
    assert "Anomaly (" in words
    mapped = CliRunner().invoke(
        app, ["map", str(sample.path), "--model", str(out), "--out", str(tmp_path / "map"), "--stride", "64", "--json"]
    )
    assert mapped.exit_code == 0, mapped.output


def test_train_reports_wrong_use_on_one_line(folder, tmp_path):
    out = tmp_path / "c.safetensors"
    needs = _run("train", folder / "manifest.csv", "--out", out, "--input", "error", "--tile-px", 64, "--folds", 0, code=2)
    assert "--model" in needs.output
    assert "inputs" in _run("train", folder / "manifest.csv", "--out", out, "--input", "smell", code=2).output
    assert not out.exists()
    rng = np.random.default_rng(0)
    (tmp_path / "one").mkdir()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "one" / "a.png")
    assert "fewer than two classes" in _run("train", tmp_path / "one", "--out", out, code=2).output
