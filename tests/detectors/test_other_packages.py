"""A detector of another package is used like a built-in one."""

import json
import logging
from pathlib import Path

import pytest
from typer.testing import CliRunner

from napari_histoad.cli._app import app
from napari_histoad.detectors import describe_detectors, detector_class, detector_names, load_detector
from napari_histoad.errors import SettingsError

EXAMPLE = (Path(__file__).parents[2] / "examples" / "own_detector.py").read_text(encoding="utf-8")
GROUP = "napari_histoad.detectors"


def _json(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _train(name, sample, out):
    _json("train", sample.path, "--normal", "all-tissue", "--detector", name, "--tile-px", 64, "--out", out, "--device", "cpu")


@pytest.fixture
def edges(add_package):
    """The detector of the example, in a package of its own; and one that cannot be exported."""
    code = EXAMPLE + "\n\nclass Plain(EdgeDetector):\n    name = 'plain'\n    exports_onnx = False\n"
    add_package("edge-detector", code, {GROUP: {"edges": "edge_detector:EdgeDetector", "plain": "edge_detector:Plain"}})


def test_terminal_lists_trains_maps_and_exports_it(edges, sample, tmp_path):
    assert _json("models")["detectors"]["edges"].startswith("Edges")
    model = tmp_path / "edges.safetensors"
    _train("edges", sample, model)
    assert load_detector(model).mean > 0  # was saved as a buffer
    assert _json("models", model)["detector"] == "edges"
    _json("map", sample.path, "--model", model, "--out", tmp_path / "maps", "--device", "cpu")
    assert _json("models", model, "--onnx", tmp_path / "edges.onnx")["batch"] in (0, 1)


def test_terminal_refuses_in_one_line_to_export_what_does_not_offer_it(edges, sample, tmp_path):
    model = tmp_path / "plain.safetensors"
    _train("plain", sample, model)
    result = CliRunner().invoke(app, ["models", str(model), "--onnx", str(tmp_path / "plain.onnx")])
    assert result.exit_code == 2
    assert "plain cannot be written as ONNX" in result.output
    assert "edges" in result.output
    assert "Traceback" not in result.output


def test_faulty_package_leaves_the_other_detectors_as_they_are(edges, add_package, caplog):
    add_package("broken-detector", "import no_such_module", {GROUP: {"broken": "broken_detector:Broken"}})
    add_package("no-detector", "class Thing: pass", {GROUP: {"thing": "no_detector:Thing"}})
    with caplog.at_level(logging.WARNING, "napari_histoad"):
        names = [described.name for described in describe_detectors()]
    assert sorted(names) == sorted(name for name in detector_names() if name != "thing")
    assert {"vqvae", "edges"} <= set(names)
    assert "broken" in caplog.text
    assert "The detector thing is left out" in caplog.text
    with pytest.raises(SettingsError, match="thing is not a subclass of Detector"):
        detector_class("thing")
