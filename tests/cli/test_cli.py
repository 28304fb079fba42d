"""The terminal as its users see it: words, exit codes, JSON."""

import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from napari_histoad import AnomalyMap, load_detector
from napari_histoad.cli._app import app
from napari_histoad.results import describe_findings, measure_regions


def _run(*args, code=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result


def _json(*args, code=0):
    return json.loads(_run(*args, "--json", code=code).stdout)


def _commands(group=None):
    """Return all commands by their words, such as ``classify train``."""
    group = group or typer.main.get_command(app)
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from ((f"{name} {sub}", command) for sub, command in _commands(found))
        else:
            yield name, found


def test_help_lists_every_command_by_task_in_whole_sentences():
    words = " ".join(_run("--help").stdout.replace("│", " ").split())
    for heading in ("First steps", "Train", "Map", "Review and export", "This machine"):
        assert f"{heading} ─" in words
    for name, function in typer.main.get_command(app).commands.items():
        sentence = " ".join(function.help.split("\n\n")[0].split())
        assert f"{name} {sentence}" in words
        assert sentence.endswith(".")


@pytest.mark.parametrize("name", [name for name, _ in _commands()])
def test_help_of_a_command_ends_with_examples_that_it_accepts(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = _run(*name.split(), "--help").stdout
    lines = words[words.rindex(" Example") :].splitlines()
    assert lines[0] in (" Example:", " Examples:")
    for line in lines[1:]:
        assert line.startswith(f"   histoad {name}")
        assert all(f" {word} " in words for word in line.split() if word.startswith("--"))


def test_info_shows_size_and_resolution(sample):
    document = _json("info", sample.path)
    assert (document["height"], document["width"], document["mpp"]) == (2048, 2048, 0.5)
    assert "2,048 x 2,048 px" in _run("info", sample.path).stdout
    assert document["notes"] == []


def test_info_shows_assumptions_as_notes(write_tiff):
    path = write_tiff(np.zeros((64, 64, 3), np.uint8), mpp=350.0)
    (note,) = _json("info", path)["notes"]
    assert "350 µm per pixel" in note
    assert "350 µm per pixel" in _run("info", path).stdout


def test_info_uses_slide_mpp_where_none_is_stated_and_override_mpp_always(write_tiff, tmp_path):
    stated, silent = (write_tiff(np.full((64, 64, 3), 180, np.uint8), f"{mpp}.tif", mpp=mpp) for mpp in (0.5, None))
    table = tmp_path / "mpp.csv"
    table.write_text("slide;mpp\n0.5.tif;0,25\nNone;0,25\n")
    for options, expected in (
        (["--slide-mpp", 0.25], (0.5, 0.25)),
        (["--override-mpp", 0.25], (0.25, 0.25)),
        (["--slide-mpp", table], (0.25, 0.25)),
    ):
        found = [_json("info", path, *options) for path in (stated, silent)]
        assert tuple(document["mpp"] for document in found) == pytest.approx(expected)
        assert [len(document["notes"]) for document in found] == [1, 0]


def test_train_names_the_lines_of_a_resolution_table_that_match_no_slide(write_tiff, tmp_path):
    slide, table = write_tiff(np.full((64, 64, 3), 180, np.uint8), "a.tif"), tmp_path / "mpp.csv"
    table.write_text("slide,mpp\na.tif,0.25\nb.tif,0.5\n")
    result = _run("train", slide, "--slide-mpp", table, "--out", tmp_path / "d.safetensors", code=1)
    assert f"--slide-mpp {table}: 1 of its lines match none of the slides: b.tif\n" in result.stderr
    table.write_text("slide,mpp\na.tif,0.25\n")
    result = _run("train", slide, "--slide-mpp", table, "--out", tmp_path / "d.safetensors", code=1)
    assert "match none" not in result.stderr


def test_models_and_doctor_list_detectors_and_checks(detector_file):
    listed = _json("models")
    assert set(listed["detectors"]) >= {"vqvae", "colour"}
    (uni,) = (encoder for encoder in listed["encoders"] if encoder["repository"] == "MahmoodLab/UNI2-h")
    assert uni["licence"] == "cc-by-nc-nd-4.0"
    assert "hf-hub:MahmoodLab/UNI2-h" in _run("models").stdout
    assert _json("models", detector_file)["trained_on"] == ["sample.tif"]
    assert {c["name"] for c in _json("doctor")["checks"]} >= {"torch", "napari", "device"}


def test_commands_run_from_training_to_report(sample, tmp_path):
    model, out = tmp_path / "d.safetensors", tmp_path / "out"
    truth, normal = (sample.path.with_name(f"sample.{kind}.geojson") for kind in ("truth", "normal"))
    settings = tmp_path / "s.yaml"
    settings.write_text("max_steps: 10\nbatch: 4\n")
    trained = _json(
        "train", sample.path, "--normal", normal, "--tile-px", 64, "--settings", settings, "--out", model, "--device", "cpu"
    )
    assert trained["settings"]["max_steps"] == 10
    mapped = _json("map", sample.path, "--model", model, "--out", out, "--stride", 64, "--device", "cpu")
    assert mapped["failed"] == []
    result = mapped["maps"][0]["map"]
    opened = AnomalyMap.open(result)
    assert mapped["maps"][0]["findings"] == describe_findings(opened, opened.default_rate, measure_regions(opened))
    assert mapped["maps"][0]["findings"] in mapped["maps"][0]["summary"]
    evaluation = _json("evaluate", result, "--truth", truth, "--exclude", normal, "--rate", 0.1)
    assert 0 <= evaluation["auroc"]["low"] <= evaluation["auroc"]["value"] <= 1
    written = _json(
        "export",
        result,
        "--geojson",
        "--png",
        "--csv",
        "--parquet",
        "--ome-tiff",
        "--slide",
        sample.path,
        "--out",
        tmp_path / "e",
        "--rate",
        0.1,
    )
    assert len(written["written"]) == 6
    assert len(list((tmp_path / "e").iterdir())) == 6
    _run("report", result, "--slide", sample.path, "--out", tmp_path / "r.html")
    assert "sample.tif" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_score_and_evaluate_take_tile_images(detector_file, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    lines = ["file,label,group"]
    for i in range(12):
        image = rng.integers(0, 256, (64, 64, 3), np.uint8) if i % 2 else np.full((64, 64, 3), (220, 150, 190), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{i // 2}")
    manifest, table = tmp_path / "manifest.csv", tmp_path / "scores.csv"
    manifest.write_text("\n".join(lines))
    _run("score", manifest, "--model", detector_file, "--out", table, "--device", "cpu")
    assert table.read_text().splitlines()[0] == "file,score,p_value,calibration_tiles"
    count = len(load_detector(detector_file).calibration.scores)
    evaluation = _json("evaluate", table, "--truth", manifest)
    assert evaluation["auroc"]["value"] == 1
    assert evaluation["rate"] == max(0.01, 1 / (count + 1))
    assert evaluation["notes"] == []
    table.write_text(table.read_text().replace(f",{count}\n", ",few\n"))
    assert "is not a table of scores" in _run("evaluate", table, "--truth", manifest, code=2).output
    assert "64 x 64" in _run("score", manifest, "--model", _bigger(tmp_path), "--out", table, code=2).stderr


def _bigger(folder):
    from napari_histoad.calibration import Calibration
    from napari_histoad.detectors import create_detector, save_detector

    detector = create_detector("colour", tile_px=128)
    detector.calibration = Calibration.from_scores(np.arange(20.0))
    return save_detector(detector, folder / "big.safetensors")


def test_map_goes_on_after_a_slide_that_fails(sample, detector_file, tmp_path):
    broken = tmp_path / "broken.svs"
    broken.write_text("nothing")
    args = ("map", broken, sample.path, "--model", detector_file, "--out", tmp_path / "out", "--stride", 64, "--device", "cpu")
    document = _json(*args, code=1)
    assert [f["slide"] for f in document["failed"]] == [str(broken)]
    assert [m["slide"] for m in document["maps"]] == ["sample.tif"]


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (("info", "none.svs"), 1, "no file"),
        (("map", "none.svs", "--out", "o"), 1, "no file"),
        (("map", "none.svs", "--out", "o", "--model", "none.safetensors"), 2, "no detector file"),
        (("train", "none.svs", "--out", "d.safetensors", "--detector", "magic"), 2, "choose one of"),
        (("train", "none.svs", "--out", "d.safetensors", "--normal", "n.geojson"), 1, "no annotation file"),
        (("train", "none.svs", "--out", "d.safetensors", "--settings", "n.yaml"), 2, "YAML"),
        (("evaluate", "none.ome.zarr", "--truth", "t.geojson"), 1, "no anomaly map"),
        (("export", "none.ome.zarr"), 2, "nothing to export"),
        (("export", "none.ome.zarr", "--png"), 1, "no anomaly map"),
        (("map",), 2, "Missing"),
        (("map", "a.svs", "b/a.svs", "--out", "o"), 2, "same name"),
        (("map", "a.svs", "b.svs", "--out", "o", "--regions", "r.geojson"), 2, "columns slide, regions"),
        (("map", "a.svs", "--out", "o", "--tissue", "regions"), 2, "none were given"),
        (("map", "a.svs", "--out", "o", "--tissue", "nonsense"), 2, "choose found or regions"),
        (("train", "a.svs", "--out", "d.safetensors", "--tissue", "regions"), 2, "none were given"),
    ],
)
def test_commands_report_errors_on_one_line_with_an_exit_code(tmp_path, monkeypatch, args, code, word):
    monkeypatch.chdir(tmp_path)
    result = _run(*args, code=code)
    assert word in result.stderr
    assert "Traceback" not in result.output
    if code == 1:
        assert sum(line.startswith("error:") for line in result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_errors_are_printed_as_json_on_request(tmp_path):
    error = _json("info", tmp_path / "none.svs", code=1)["error"]
    assert error["kind"] == "SlideError"
    assert error["remedy"] == "check the path"


def test_info_exits_silently_when_its_reader_closes_the_pipe(sample):
    command = f"{sys.executable} -m napari_histoad info {sample.path} | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "File" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)  # five minutes on two free cores
def test_demo_reaches_the_stated_auroc(tmp_path):
    document = _json("demo", "--out", tmp_path)
    assert document["evaluation"]["auroc"]["value"] >= 0.95
    assert document["colour_baseline"]["auroc"]["value"] < document["evaluation"]["auroc"]["value"]
    assert (tmp_path / "report.html").exists()


def test_bench_prints_rates_and_machine(sample, detector_file):
    document = _json("bench", sample.path, "--model", detector_file, "--seconds", "0.2", "--device", "cpu")
    assert document["network"] > 0
    assert document["whole"] > 0
    assert document["bound"] == pytest.approx(1 / (1 / document["decode"] + 1 / document["network"]))
    assert document["efficiency"] == pytest.approx(document["whole"] / document["bound"])
    assert "tiles at a time" in document["pace"]
    people = _run("bench", sample.path, "--model", detector_file, "--seconds", "0.2", "--device", "cpu")
    assert "tiles/s" in people.stdout
    assert "tiles at a time" in people.stdout


def test_map_takes_a_table_of_slides_and_resumes(sample, detector_file, tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide,model\n{sample.path},{detector_file}\nmissing.tif,{detector_file}\n")
    for _ in range(2):
        document = _json("map", table, "--out", tmp_path / "out", "--stride", "64", "--device", "cpu", code=1)
        assert [entry["slide"] for entry in document["maps"]] == [sample.path.name]
        assert "missing.tif" in document["failed"][0]["what"]


def test_map_reports_a_missing_scheduler_as_wrong_use(sample, detector_file, tmp_path):
    options = ["--model", detector_file, "--out", tmp_path, "--scheduler", "tcp://127.0.0.1:9"]
    result = _run("map", sample.path, *options, code=2)
    assert "no scheduler answers" in result.stderr


def test_map_finds_the_weight_file_of_a_detector_again(sample, tmp_path, monkeypatch):
    import safetensors.torch

    from napari_histoad.detectors._timm import import_timm

    name, weights, model = "test_vit.r160_in1k", tmp_path / "weights.safetensors", tmp_path / "d.safetensors"
    safetensors.torch.save_file(import_timm().create_model(name).state_dict(), weights)
    normal = sample.path.with_name("sample.normal.geojson")
    of_weights = ("--backbone", name, "--backbone-weights", weights)
    _run("train", sample.path, "--normal", normal, "--detector", "embedding", "--tile-px", 64, *of_weights, "--out", model)
    assert _json("map", sample.path, "--model", model, "--out", tmp_path / "here", "--stride", 64)["failed"] == []
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    refused = _run("map", sample.path, "--model", model, "--out", tmp_path / "there", "--stride", 64, code=2)
    assert "histoad models --weights FILE" in " ".join(refused.output.split())
    _run("models", "--weights", weights)
    assert _json("map", sample.path, "--model", model, "--out", tmp_path / "there", "--stride", 64)["failed"] == []
    assert "cannot be read" in _run("models", "--weights", tmp_path / "none.safetensors", code=2).output


def test_map_uses_override_mpp_also_where_a_table_gives_another_one(sample, detector_file, tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide,mpp\n{sample.path},0.25\n")
    options = ("--model", detector_file, "--stride", 64, "--device", "cpu")
    for more, mpp in (((), 0.25), (("--override-mpp", 0.4), 0.4)):
        (mapped,) = _json("map", table, *options, *more, "--out", tmp_path / str(mpp))["maps"]
        assert AnomalyMap.open(mapped["map"]).info.slide_mpp == mpp
