"""A compiled detector says what the plain one says, and is told plainly when it cannot be had."""

import shutil

import numpy as np
import pytest
import torch

from napari_histoad import load_detector, open_slide
from napari_histoad.detectors import create_detector
from napari_histoad.engine import choose_device, map_job
from napari_histoad.engine.mapping._compile import compiled_job
from napari_histoad.errors import DeviceError
from napari_histoad.jobs import run
from napari_histoad.maps import AnomalyMap

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")


def _map(sample, out, detector, on_progress=None):
    with open_slide(sample.path) as slide:
        job = map_job(slide, out, detector=detector, stride_px=64, device="cpu", compile=True)
        return run(job, on_progress or (lambda _: None))


@needs_compiler
def test_compiled_job_gives_the_same_map_and_compiles_once_for_many_slides(
    sample, detector_file, map_folder, tmp_path, monkeypatch
):
    detector, stages = load_detector(detector_file), []
    result = _map(sample, tmp_path / "first", detector, lambda progress: stages.append(progress.stage))
    assert "Compiling" in stages
    plain = AnomalyMap.open(map_folder)
    assert len(result) % 8  # the last batch is a smaller one
    assert np.allclose(result.scores, plain.scores, rtol=2e-3)
    order, other = np.argsort(np.argsort(result.scores)), np.argsort(np.argsort(plain.scores))
    assert np.corrcoef(order, other)[0, 1] >= 0.999

    def compiled_again(*_, **__):
        pytest.fail("compiled again")

    monkeypatch.setattr(torch, "compile", compiled_again)
    again = _map(sample, tmp_path / "second", detector)
    assert np.array_equal(again.scores, result.scores)


def test_compiled_job_reports_a_failed_compilation_in_one_line(sample, detector_file, tmp_path, monkeypatch):
    def broken(*_, **__):
        def score(_):
            raise RuntimeError("no working C++ compiler found\nand a page of what torch thinks of it")

        return score

    monkeypatch.setattr(torch, "compile", broken)
    detector = load_detector(detector_file)
    with pytest.raises(DeviceError, match=r"no working C\+\+ compiler found\)") as error:
        _map(sample, tmp_path, detector)
    assert "--compile" in error.value.remedy
    monkeypatch.undo()
    with open_slide(sample.path) as slide:  # the same map is gone on with
        assert run(map_job(slide, tmp_path, detector=detector, stride_px=64, device="cpu")).info.complete


def test_compiled_job_leaves_a_method_that_would_become_slower():
    detector, notes = create_detector("texture", tile_px=64), []
    assert run(compiled_job(detector, choose_device("cpu")), lambda progress: notes.append(progress.note)) is detector
    assert any("texture is not compiled" in note for note in notes)
