"""Every example runs."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def _load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_train_and_map(sample, tmp_path):
    normal = sample.path.with_name("sample.normal.geojson")
    result = _load("train_and_map").main(sample.path, normal, tmp_path, tile_px=64, max_steps=10)
    assert result.info.complete
    assert {p.name for p in tmp_path.iterdir()} >= {"anomalies.geojson", "overlay.png", "detector.safetensors"}


def test_folder_of_slides(sample, detector_file, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    (folder / "a.tif").write_bytes(sample.path.read_bytes())
    (folder / "b.svs").write_text("broken")
    (folder / "notes.txt").write_text("not a slide")
    failed = _load("folder_of_slides").main(folder, detector_file, tmp_path / "out")
    assert [line.split(":")[0] for line in failed] == ["b.svs"]
    assert "a.tif" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_own_detector(sample, tmp_path):
    result = _load("own_detector").main(sample.path, tmp_path, tile_px=64)
    assert result.info.detector == "edges"
    assert result.info.complete


def test_no_example_is_forgotten():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {p.stem for p in EXAMPLES.glob("*.py")} <= tested


@pytest.mark.parametrize("block", (EXAMPLES.parent / "README.md").read_text(encoding="utf-8").split("```python\n")[1:])
def test_python_in_the_readme_runs(block, sample, tmp_path, monkeypatch):
    code = block.split("```")[0]
    (tmp_path / "case.tif").write_bytes(sample.path.read_bytes())
    (tmp_path / "normal.geojson").write_bytes(sample.path.with_name("sample.normal.geojson").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("max_steps=600", "max_steps=10, tile_px=64"), "README.md", "exec"), {})
    assert (tmp_path / "out" / "case.ome.zarr").is_dir()
