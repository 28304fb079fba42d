"""Another package adds a detector, a slide format and an export, with one class each."""

import json
import os
import subprocess
import sys

import numpy as np

from napari_histoad.slide import open_slide

PACKAGE = """
from pathlib import Path

import numpy as np

from napari_histoad.detectors import Detector, DetectorSettings, TileScores
from napari_histoad.results import Export
from napari_histoad.slide import ArraySlide


class Darkness(Detector):
    name, title = "darkness", "Darkness"
    summary = "Scores how dark a tile is."
    Settings = DetectorSettings

    def score(self, images):
        return TileScores(255 - images.float().mean((1, 2, 3)))


class NumpySlide(ArraySlide):
    format, on_disk, patterns, priority = "NumPy array", True, ("*.npy",), 60

    @classmethod
    def supports(cls, path, head):
        return head is not None and head.startswith(b"\\x93NUMPY")

    def __init__(self, path, mpp=None):
        super().__init__([np.load(path, mmap_mode="r")], path, mpp_yx=(0.5, 0.5), mpp=mpp)


class ScoreList(Export):
    name, title, ending = "score-list", "One score per line (text)", "scores.txt"

    def write(self, source, path, *, slide=None, rate=None):
        np.savetxt(path, source.scores)
"""
ENTRY_POINTS = {
    "napari_histoad.detectors": {"darkness": "more_for_histoad:Darkness"},
    "napari_histoad.slide_formats": {"numpy": "more_for_histoad:NumpySlide"},
    "napari_histoad.exports": {"score-list": "more_for_histoad:ScoreList"},
}
COMMANDS = [
    "info case.npy",
    "models",
    "train case.npy --detector darkness --tile-px 64 --out dark.safetensors",
    "map case.npy --model dark.safetensors --out maps",
    "export maps/case.ome.zarr --score-list",
]
RUN_ALL = """
import json, sys
from typer.testing import CliRunner
from napari_histoad.cli._app import app
for line in json.load(sys.stdin):
    result = CliRunner().invoke(app, [*line.split(), "--json"])
    assert result.exit_code == 0, result.output
    print(json.dumps(json.loads(result.stdout)))
"""


def test_terminal_uses_the_detector_format_and_export_of_another_package(add_package, sample, tmp_path):
    folder = add_package("more-for-histoad", PACKAGE, ENTRY_POINTS)
    with open_slide(sample.path) as slide:
        np.save(tmp_path / "case.npy", slide.read(0, 0, 0, *slide.shape))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    # In another process, because the terminal lists the exports when it is imported.
    command = {"args": [sys.executable, "-c", RUN_ALL], "env": environment, "cwd": tmp_path, "input": json.dumps(COMMANDS)}
    done = subprocess.run(**command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    info, models, *_ = (json.loads(line) for line in done.stdout.splitlines())
    assert info["format"] == "NumPy array"
    assert models["detectors"]["darkness"] == "Darkness"
    scores = np.loadtxt(tmp_path / "maps" / "case.scores.txt")
    assert len(scores) > 100
    assert np.isfinite(scores).all()
