"""The client with a real background process."""

import os
import queue
import shutil
import threading
import time

import psutil
import pytest

from napari_histoad.worker.client import WorkerClient
from napari_histoad.worker.protocol import ComputeMap, FindTissue, Train


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
        if event.event in kinds:
            return seen
    raise TimeoutError


def test_client_passes_on_progress_and_result(worker, sample, tmp_path):
    worker.submit(FindTissue(slide=str(sample.path), slide_mpp=0.5, out=tmp_path / "t.npy"))
    events = _wait(worker, "result", "error")
    assert events[0].progress.stage == "Finding tissue"
    assert events[-1].result.area_mm2 > 0.1
    assert not worker.busy


def test_client_passes_on_errors_with_remedy_and_keeps_the_process(worker, tmp_path):
    worker.submit(ComputeMap(slide=str(tmp_path / "none.svs"), out=tmp_path))
    error = _wait(worker, "error")[-1]
    assert error.kind == "SlideError"
    assert "check the path" in error.remedy
    pid = worker.pid
    worker.submit(FindTissue(slide=str(tmp_path / "none.svs"), out=tmp_path / "t.npy"))
    assert _wait(worker, "error")[-1].kind == "SlideError"
    assert worker.pid == pid


def test_client_cancels_a_job_and_the_next_one_resumes_it(worker, sample, detector_file, tmp_path):
    args = ComputeMap(slide=str(sample.path), out=tmp_path, model=detector_file, stride_px=16, device="cpu")
    worker.submit(args)
    while not _wait(worker, "progress")[-1].progress.updated:
        pass
    worker.cancel()
    _wait(worker, "cancelled")
    worker.submit(args)
    first = next(e for e in _wait(worker, "progress", "error") if e.event == "progress")
    assert first.progress.stage
    worker.cancel()
    _wait(worker, "cancelled")


def test_client_kills_a_process_that_does_not_answer_to_cancel(worker, sample, tmp_path):
    worker.submit(Train(slide=str(sample.path), out=tmp_path / "d.safetensors", detector="vqvae", settings=SLOW))
    _wait(worker, "progress")
    pid = worker.pid
    psutil.Process(pid).suspend()  # as in the middle of a long step
    worker.cancel()
    _wait(worker, "cancelled")
    worker.submit(FindTissue(slide=str(sample.path), slide_mpp=0.5, out=tmp_path / "t.npy"))
    assert _wait(worker, "result", "error")[-1].event == "result"
    assert worker.pid not in (pid, None)


def test_client_reports_and_replaces_a_process_that_died(worker, sample, tmp_path):
    worker.submit(Train(slide=str(sample.path), out=tmp_path / "d.safetensors", detector="vqvae", settings=SLOW))
    _wait(worker, "progress")
    psutil.Process(worker.pid).kill()
    assert "ended unexpectedly" in _wait(worker, "error")[-1].what
    worker.submit(FindTissue(slide=str(sample.path), slide_mpp=0.5, out=tmp_path / "t.npy"))
    assert _wait(worker, "result", "error")[-1].event == "result"


def test_client_skips_lines_that_are_no_events(worker, sample, tmp_path, monkeypatch, caplog):
    (tmp_path / "sitecustomize.py").write_text("print('hello from a library', flush=True)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    worker.submit(FindTissue(slide=str(sample.path), slide_mpp=0.5, out=tmp_path / "t.npy"))
    assert _wait(worker, "result", "error")[-1].event == "result"
    assert "hello from a library" in caplog.text


def test_client_leaves_no_threads_when_closed(worker):
    before = set(threading.enumerate())
    worker.start()
    begun = set(threading.enumerate()) - before
    assert begun
    worker.close()
    for thread in begun:
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("damaged", [False, True])
def test_map_job_renames_a_map_of_another_detector(worker, sample, detector_file, map_folder, tmp_path, damaged):
    there = shutil.copytree(map_folder, tmp_path / map_folder.name)
    if damaged:
        (there / "zarr.json").unlink()
    worker.submit(ComputeMap(slide=str(sample.path), out=tmp_path, model=detector_file, device="cpu"))
    assert _wait(worker, "result", "error")[-1].event == "result"
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["sample.earlier-1.ome.zarr", "sample.ome.zarr"]
