"""The background process, driven as the GUI drives it."""

import queue
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from napari_histoad import AnomalyMap, map_slide, train
from napari_histoad.jobs import run
from napari_histoad.slide import open_slide
from napari_histoad.worker.client import WorkerClient
from napari_histoad.worker.jobs import JOBS
from napari_histoad.worker.protocol import as_picture, progress_of


@pytest.fixture
def worker():
    events = queue.Queue()
    client = WorkerClient(events.put)
    client.events = events
    yield client
    client.close()


SLOW = {"preset": "vit-64", "batch": 64, "tile_px": 128}
"""A training step of many seconds."""


def _wait(worker, *kinds, timeout=120):
    seen = []
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        event = worker.events.get(timeout=timeout)
        seen.append(event)
        if event["event"] in kinds:
            return seen
    raise TimeoutError


def test_a_job_reports_and_returns(worker, sample, tmp_path):
    worker.submit("tissue", {"slide": str(sample.path), "slide_mpp": 0.5, "out": str(tmp_path / "t.npy")})
    events = _wait(worker, "result", "error")
    assert progress_of(events[0]).stage == "Finding tissue"
    assert events[-1]["result"]["area_mm2"] > 0.1
    assert not worker.busy


def test_errors_come_with_their_remedy_and_the_process_stays(worker, tmp_path):
    worker.submit("map", {"slide": str(tmp_path / "none.svs"), "out": str(tmp_path)})
    error = _wait(worker, "error")[-1]
    assert error["kind"] == "SlideError"
    assert "check the path" in error["remedy"]
    pid = worker.pid
    worker.submit("dance", {})
    assert "no job named" in _wait(worker, "error")[-1]["what"]
    assert worker.pid == pid


def test_a_cancelled_job_ends_and_work_goes_on(worker, sample, detector_file, tmp_path):
    args = {"slide": str(sample.path), "out": str(tmp_path), "model": str(detector_file), "stride_px": 16, "device": "cpu"}
    worker.submit("map", args)
    while not _wait(worker, "progress")[-1].get("updated"):
        pass
    worker.cancel()
    _wait(worker, "cancelled")
    worker.submit("map", args)
    first = next(e for e in _wait(worker, "progress", "error") if e["event"] == "progress")
    assert first["stage"]
    worker.cancel()
    _wait(worker, "cancelled")


def test_a_job_that_does_not_listen_is_ended(worker, sample, tmp_path):
    worker.submit("train", {"slide": str(sample.path), "out": str(tmp_path / "d.safetensors"), "settings": SLOW})
    _wait(worker, "progress")
    pid = worker.pid
    psutil.Process(pid).suspend()  # deaf, as in the middle of a long step
    worker.cancel()
    _wait(worker, "cancelled")
    worker.submit("tissue", {"slide": str(sample.path), "slide_mpp": 0.5, "out": str(tmp_path / "t.npy")})
    assert _wait(worker, "result", "error")[-1]["event"] == "result"
    assert worker.pid not in (pid, None)


def test_a_process_that_dies_is_told_and_replaced(worker, sample, tmp_path):
    worker.submit("train", {"slide": str(sample.path), "out": str(tmp_path / "d.safetensors"), "settings": SLOW})
    _wait(worker, "progress")
    psutil.Process(worker.pid).kill()
    assert _wait(worker, "died")[-1]["code"] != 0
    worker.submit("tissue", {"slide": str(sample.path), "slide_mpp": 0.5, "out": str(tmp_path / "t.npy")})
    assert _wait(worker, "result", "error")[-1]["event"] == "result"


def test_closing_leaves_no_threads(worker):
    before = set(threading.enumerate())
    worker.start()
    begun = set(threading.enumerate()) - before
    assert begun
    worker.close()
    for thread in begun:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("damaged", [False, True])
def test_what_is_not_the_map_of_this_detector_is_set_aside_not_lost(worker, sample, detector_file, map_folder, tmp_path, damaged):
    there = shutil.copytree(map_folder, tmp_path / map_folder.name)
    if damaged:
        (there / "zarr.json").unlink()
    worker.submit("map", {"slide": str(sample.path), "out": str(tmp_path), "model": str(detector_file), "device": "cpu"})
    assert _wait(worker, "result", "error")[-1]["event"] == "result"
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["sample.earlier-1.ome.zarr", "sample.ome.zarr"]


@pytest.mark.parametrize("reason", ["another slide", "regions"])
def test_the_map_of_another_slide_or_of_regions_is_set_aside_not_lost(sample, detector_file, tmp_path, reason):
    detector = {"model": detector_file, "device": "cpu"}
    first, outlines = tmp_path / "first" / sample.path.name, None
    first.parent.mkdir()
    if reason == "regions":
        first, outlines = sample.path, sample.plan.normal
    else:
        with open_slide(sample.path) as slide:
            pixels = slide.read(0, 0, 0, *slide.shape)
        tifffile.imwrite(first, pixels[::-1], tile=(256, 256), photometric="rgb", resolution=(20000, 20000), resolutionunit=3)
    before = map_slide(first, tmp_path / "out", regions=outlines, stride_px=64, **detector).scores
    args = {
        "slide": str(sample.path),
        "out": str(tmp_path / "out"),
        "model": str(detector_file),
        "stride_px": 64,
        "device": "cpu",
    }
    result = run(JOBS["map"](args))
    assert Path(result["path"]).name == "sample.ome.zarr"
    assert AnomalyMap.open(result["path"]).find_slide() == sample.path
    assert np.array_equal(AnomalyMap.open(tmp_path / "out" / "sample.earlier-1.ome.zarr").scores, before)
    assert run(JOBS["map"](args)) == result
    assert len(list((tmp_path / "out").glob("[!.]*"))) == 2


def test_leafing_through_explanations_opens_and_loads_once(sample, detector_file, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("napari_histoad.slide.open_slide", lambda *args, **more: opened.append(args) or open_slide(*args, **more))
    model = tmp_path / "stained.safetensors"
    train(sample.path, model, normal=sample.plan.normal, tile_px=64, max_steps=2, device="cpu", stain="macenko")
    opened.clear()
    tiles = []
    for chosen in (detector_file, model, model, detector_file):
        args = {"slide": str(sample.path), "model": str(chosen), "centre": [700.0, 700.0], "device": "cpu"}
        panels = run(JOBS["explain"](args))["panels"]
        assert [title for title, _ in panels] == ["Tile", "Reconstruction", "Error"]
        tiles.append(as_picture(panels[0][1]))
    assert len(opened) == 3
    assert np.array_equal(tiles[1], tiles[2])
    assert np.array_equal(tiles[0], tiles[3])
    assert not np.array_equal(tiles[0], tiles[1])  # given the stains that the detector knows
