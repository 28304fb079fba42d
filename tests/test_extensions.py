"""Another package adds a detector, a slide format and an export, with one class each."""

import json
import subprocess
import sys

import numpy as np

from napari_histoad.slide import open_slide

COMMANDS = [
    "info case.npy",
    "models",
    "train case.npy --slide-mpp 0.5 --detector grey --device cpu --tile-px 64 --out grey.safetensors",
    "map case.npy --slide-mpp 0.5 --model grey.safetensors --out maps --device cpu",
    "export maps/case.ome.zarr --tile-count",
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


def test_terminal_uses_the_detector_format_and_export_of_another_package(toy_package, sample, tmp_path):
    with open_slide(sample.path) as slide:
        np.save(tmp_path / "case.npy", slide.read(0, 0, 0, *slide.shape))
    # In another process, because the terminal lists the exports when it is imported.
    command = {"args": [sys.executable, "-c", RUN_ALL], "cwd": tmp_path, "input": json.dumps(COMMANDS)}
    done = subprocess.run(**command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    info, models, *_ = (json.loads(line) for line in done.stdout.splitlines())
    assert info["format"] == "NumPy array"
    assert models["detectors"]["grey"] == "Grey values"
    assert json.loads((tmp_path / "maps" / "case.count.json").read_text())["tiles"] > 100
