"""Numbers and addresses that make no sense are refused at once, in one line."""

import math
import os
import socket

import numpy as np
import pytest
from striped_tiles import labelled
from typer.testing import CliRunner

from napari_histoad import map_slide, recalibrate, train
from napari_histoad.classifiers import ClassifierSettings
from napari_histoad.cli._app import app
from napari_histoad.detectors import load_detector, starter_path
from napari_histoad.engine import MAX_SEED, bench_job, check_options, fit_classifier_job
from napari_histoad.engine.mapping._cluster import Cluster
from napari_histoad.errors import SettingsError
from napari_histoad.evaluation import cross_validate_job
from napari_histoad.jobs import run
from napari_histoad.slide import open_slide


@pytest.mark.parametrize("name", ["seed", "devices", "max_tiles", "stride_px", "folds", "mpp", "cell_um", "seconds"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf, "1", True, 2**70])
def test_check_options_refuses_values_out_of_range(name, value):
    with pytest.raises(SettingsError, match=f"{name} is .*; give a (whole )?number from"):
        check_options(**{name: value})


def test_check_options_accepts_values_in_range():
    check_options(seed=0, devices=1, max_tiles=48, stride_px=32, folds=5, mpp=0.25, cell_um=8, seconds=0.1)
    check_options(seed=np.int64(MAX_SEED), mpp=np.float32(0.5), stride_px=None)


def test_every_job_refuses_bad_options_before_it_starts(sample, tmp_path):
    out, model = tmp_path / "out", starter_path()
    data = labelled(48)
    settings = ClassifierSettings(networks=("base_cnn",), tile_px=64, epochs=1)
    with open_slide(sample.path) as slide:
        calls = [
            lambda: train(sample.path, out / "d.safetensors", detector="colour", seed=-1),
            lambda: train(sample.path, out / "d.safetensors", detector="colour", seed=2**32),
            lambda: train(sample.path, out / "d.safetensors", detector="colour", mpp=math.nan),
            lambda: train(sample.path, out / "d.safetensors", detector="colour", devices=0),
            lambda: recalibrate(model, sample.path, out / "r.safetensors", seed=-1),
            lambda: recalibrate(model, sample.path, out / "r.safetensors", max_tiles=0),
            lambda: map_slide(sample.path, out, seed=-1),
            lambda: map_slide(sample.path, out, stride_px=0),
            lambda: map_slide(sample.path, out, cell_um=math.nan),
            lambda: map_slide(sample.path, out, mpp=-2),
            lambda: run(bench_job(slide, load_detector(model), seconds=math.nan)),
            lambda: run(bench_job(slide, load_detector(model), stride_px=-4)),
            lambda: run(fit_classifier_job(settings, data, seed=-1)),
            lambda: run(cross_validate_job(settings, data, folds=1)),
        ]
        for call in calls:
            with pytest.raises(SettingsError):
                call()
    assert not out.exists()


@pytest.mark.parametrize(
    "line",
    [
        "train SLIDE --out O --seed -1",
        "train SLIDE --out O --seed 4294967296",
        "train SLIDE --out O --mpp 0",
        "train SLIDE --out O --mpp nan",
        "train SLIDE --out O --tile-px 0",
        "train SLIDE --out O --max-tiles 5",
        "train SLIDE --out O --devices 0",
        "recalibrate MODEL SLIDE --out O --max-tiles -1",
        "map SLIDE --out O --stride 0",
        "map SLIDE --out O --cell-um -1",
        "map SLIDE --out O --cell-um nan",
        "map SLIDE --out O --mpp -1",
        "map SLIDE --out O --scheduler nonsense",
        "bench SLIDE --stride -1",
        "bench SLIDE --seconds 0",
        "demo --seed -1",
        "classify train SLIDE --out O --seed -1",
        "classify train SLIDE --out O --folds -1",
    ],
)
def test_commands_refuse_bad_options_and_write_nothing(line, sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"SLIDE": str(sample.path), "MODEL": str(starter_path())}
    result = CliRunner().invoke(app, [names.get(word, word) for word in line.split()])
    assert result.exit_code == 2, result.output
    assert "unexpected" not in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address", ["nonsense", "", "host", "http://host:8786", "tcp://host", "tcp://host:99999", "tcp://a b:1", "::1"]
)
def test_cluster_refuses_an_invalid_address_at_once(address, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *args, **options: pytest.fail("asked the network"))
    with pytest.raises(SettingsError, match="is not the address of a scheduler; give it as tcp://"):
        Cluster(address)


def test_cluster_reports_an_unreachable_scheduler_in_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        port = unused.getsockname()[1]
        for address in (f"tcp://127.0.0.1:{port}", f"127.0.0.1:{port}"):
            with pytest.raises(SettingsError, match=f"no scheduler answers at {address}") as caught:
                Cluster(address)
            assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="permissions of folders are others there")
def test_weights_are_known_only_if_they_were_stored(tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "taken"))  # a file where the folder should be
    result = CliRunner().invoke(app, ["models", "--weights", str(weights)])
    assert result.exit_code == 1
    assert "Remembered" not in result.output
    assert "cannot be remembered" in result.output
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    result = CliRunner().invoke(app, ["models", "--weights", str(weights)])
    assert result.exit_code == 0
    assert "Remembered" in result.output
