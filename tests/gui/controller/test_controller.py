"""The controller without a window."""

import queue
import shutil
import time
from functools import partial

import numpy as np
import pytest
from waiting import wait_until

from napari_histoad import AnomalyMap, open_slide
from napari_histoad.errors import HistoadError, MissingMppError, RegionError, SettingsError
from napari_histoad.gui.controller import Controller
from napari_histoad.results import exports
from napari_histoad.slide import ArraySlide

SIGNALS = {
    "runner": ("progressed", "failed", "cancelled"),
    "chosen": ("tissue_found", "left_behind"),
    "training": ("trained",),
    "maps": ("started", "updated", "finished", "saved"),
}


class Driver:
    def __init__(self):
        self.calls = queue.Queue()
        self.controller = Controller(self.calls.put)
        self.seen = []
        for part, names in SIGNALS.items():
            for name in names:
                getattr(getattr(self.controller, part), name).connect(partial(self._see, name))
        self.controller.maps.thresholds.reviewed.connect(partial(self._see, "reviewed"))

    def _see(self, name, *args):
        self.seen.append((name, args))

    def until(self, *names, timeout=600):
        deadline = time.monotonic() + timeout
        while not any(n in names for n, _ in self.seen):
            self.calls.get(timeout=max(0.1, deadline - time.monotonic()))()
        return next(args for n, args in self.seen if n in names)


@pytest.fixture
def driver():
    d = Driver()
    yield d
    d.controller.close()


@pytest.fixture
def own_slide(sample, tmp_path):
    path = tmp_path / "case.tif"
    path.write_bytes(sample.path.read_bytes())
    return open_slide(path)


def test_controller_trains_maps_reviews_and_saves(driver, own_slide, sample):
    c = driver.controller
    c.chosen.choose(own_slide)
    c.chosen.find_tissue()
    assert driver.until("tissue_found", "failed")[1] > 0.1
    c.training.train(sample.plan.normal, detector="vqvae", settings={"tile_px": 64, "max_steps": 10, "batch": 4})
    model, left_out = driver.until("trained", "failed")
    assert left_out == []
    assert model.exists()
    c.maps.compute()
    (result,) = driver.until("finished", "failed")
    assert result.info.complete
    assert len([1 for name, _ in driver.seen if name == "updated"]) > 1  # it fills in as it is computed
    reviews = []
    for rate in (0.02, 0.5):
        c.maps.request_review(rate)
        reviews += driver.until("reviewed", "failed")
        driver.seen = [s for s in driver.seen if s[0] != "reviewed"]
    strict, loose = reviews
    assert (strict.labels > 0).sum() <= (loose.labels > 0).sum()
    assert "tiles (" in strict.findings
    c.maps.save([export for export in exports() if export.name in ("geojson", "png")], report=True)
    (files,) = driver.until("saved", "failed")
    assert len(files) == 3
    assert all(f.stat().st_size > 0 for f in files)
    assert "failed" not in dict(driver.seen)


def test_controller_asks_for_a_slide_its_resolution_and_outlines(driver, write_tiff, own_slide):
    c = driver.controller
    with pytest.raises(HistoadError, match="no slide is open"):
        c.maps.compute()
    unknown = write_tiff(np.zeros((99, 99, 3), np.uint8), "unknown.tif", mpp=None)
    c.chosen.choose(open_slide(unknown))
    with pytest.raises(MissingMppError, match="step 1"):
        c.chosen.find_tissue()
    with pytest.raises(SettingsError):
        c.chosen.set_mpp(1000)
    c.chosen.set_mpp(0.4)
    assert c.chosen.slide.mpp == 0.4
    c.chosen.choose(own_slide)
    with pytest.raises(RegionError, match="Outline normal tissue"):
        c.training.train([], detector="vqvae", settings={})
    again = Controller(lambda call: call())
    again.chosen.choose(open_slide(unknown))
    assert again.chosen.slide.mpp == 0.4  # remembered


def test_runner_reports_errors_with_their_remedy(driver, write_tiff):
    driver.controller.chosen.choose(open_slide(write_tiff(np.full((600, 600, 3), 240, np.uint8))))
    driver.controller.maps.compute()
    words, step = driver.until("failed", "finished")
    assert step == "map"
    assert "no tissue was found" in words
    assert "; check" in words
    assert not driver.controller.runner.client.busy


def test_maps_resumes_after_the_background_process_died(driver, own_slide, detector_file):
    import psutil

    c = driver.controller
    c.chosen.choose(own_slide)
    c.training.model = detector_file
    c.maps.compute()
    driver.until("started", "failed")
    psutil.Process(c.runner.client.pid).kill()
    driver.until("failed", "finished")
    driver.seen.clear()
    c.maps.compute()
    assert driver.until("finished", "failed")[0].info.complete


def test_maps_does_not_show_the_result_of_another_slide(driver, own_slide, detector_file, sample):
    c = driver.controller
    c.chosen.choose(own_slide)
    c.training.model = detector_file
    c.maps.compute()
    driver.until("started", "failed")
    c.chosen.choose(open_slide(sample.path))
    driver.seen.clear()
    (words,) = driver.until("left_behind", "finished", "failed")
    assert "Choose case.tif" in words
    assert {name for name, _ in driver.seen} <= {"progressed", "left_behind"}
    assert c.maps.map is None
    c.chosen.choose(own_slide)
    driver.seen.clear()
    c.maps.compute()  # what was computed meanwhile is kept
    (result,) = driver.until("finished", "failed")
    assert result.info.slide == "case.tif"
    assert result.path.parent == own_slide.path.parent / "anomaly-maps"
    assert len([1 for name, _ in driver.seen if name == "updated"]) == 0


def test_find_tissue_leaves_no_file_if_another_slide_was_chosen(driver, own_slide, sample):
    c = driver.controller
    c.chosen.choose(own_slide)
    c.chosen.find_tissue()
    c.chosen.choose(open_slide(sample.path))
    driver.until("left_behind", "tissue_found", "failed")
    assert "tissue_found" not in dict(driver.seen)
    assert list((own_slide.path.parent / "anomaly-maps").iterdir()) == []


def test_chosen_slide_stays_when_the_copy_of_another_is_ready(driver, own_slide, tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    layer = ArraySlide([np.full((600, 600, 3), 200, np.uint8)], "layer", mpp=0.5)
    c = driver.controller
    c.chosen.choose(layer)
    c.maps.compute()
    c.chosen.choose(own_slide)
    (words,) = driver.until("left_behind", "failed", "started")
    assert "Choose layer" in words
    assert c.chosen.slide is own_slide
    assert not c.runner.busy


def test_thresholds_report_a_deleted_map(driver, map_folder, tmp_path):
    c = driver.controller
    moved = shutil.copytree(map_folder, tmp_path / map_folder.name)
    c.maps.show(AnomalyMap.open(moved))
    moved.rename(tmp_path / "elsewhere.ome.zarr")
    c.maps.request_review(0.1)
    words, step = driver.until("failed", "reviewed")
    assert step == "review"
    assert "does not exist any more; put it back" in words


def test_runner_is_busy_until_the_end_is_reported(driver, own_slide, detector_file):
    c = driver.controller
    c.chosen.choose(own_slide)
    c.training.model = detector_file
    c.maps.compute()
    wait_until(lambda: not c.runner.client.busy)
    assert c.runner.busy
    with pytest.raises(HistoadError, match="another job is still running"):  # its events would be taken for this one's
        c.maps.compute()
    assert driver.until("finished", "failed")[0].info.complete
    assert not c.runner.busy


def test_thresholds_answer_the_last_of_many_requests(driver, map_folder):
    c = driver.controller
    c.maps.show(AnomalyMap.open(map_folder))
    rates = np.geomspace(0.02, 0.5, 40).tolist()
    for rate in rates:
        c.maps.request_review(rate)
    while not any(name == "reviewed" and args[0].rate == rates[-1] for name, args in driver.seen):
        driver.calls.get(timeout=600)()
    assert len([1 for name, _ in driver.seen if name == "reviewed"]) < len(rates)
