import contextlib
import itertools
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from random import Random

import numpy as np
import pytest
import shapely
import tifffile
import torch
from shapely.geometry import box
from waiting import wait_until

from napari_histoad import AnomalyMap, evaluate, load_detector, map_slide, open_slide
from napari_histoad.engine import choose_device, map_job
from napari_histoad.engine._batch import batches_of, score_batch
from napari_histoad.engine.mapping._map import work_order
from napari_histoad.errors import (
    BundleError,
    EmptyTissueError,
    MapError,
    MissingMppError,
    OutputError,
    RegionError,
    SettingsError,
    SlideError,
)
from napari_histoad.jobs import run
from napari_histoad.maps import MapGeometry
from napari_histoad.regions import Region
from napari_histoad.slide._tiff import TiffSlide
from napari_histoad.tiles import TileGrid, TileLoader


def _bytes(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _job(sample, out, detector_file, **options):
    slide = open_slide(sample.path)
    return map_job(slide, out, detector=load_detector(detector_file), stride_px=64, device="cpu", **options)


def test_map_job_reports_scored_tiles_and_the_changed_box(sample, detector_file, tmp_path):
    events = []
    result = run(_job(sample, tmp_path, detector_file), events.append)
    mapping = [e for e in events if e.stage == "Mapping"]
    assert [e.done for e in mapping] == sorted(e.done for e in mapping)
    assert mapping[-1].done == mapping[-1].total == len(result)
    seen = np.zeros(result.geometry.shape, bool)
    for y0, x0, y1, x1 in (e.updated for e in mapping if e.updated is not None):
        seen[y0:y1, x0:x1] = True
    assert seen[~np.isnan(np.asarray(result.levels[0]))].all()
    assert result.info.complete
    assert not np.isnan(result.scores).any()


def test_map_job_does_nothing_for_a_finished_map(sample, detector_file, map_folder):
    before = _bytes(map_folder)
    events = []
    run(_job(sample, map_folder.parent, detector_file), events.append)
    assert [e.done for e in events if e.stage == "Mapping"] == [len(AnomalyMap.open(map_folder))]
    assert _bytes(map_folder) == before


@pytest.mark.parametrize("cut_at", [1, 150, 400])
def test_map_job_gives_the_same_bytes_after_a_cancel(sample, detector_file, map_folder, tmp_path, cut_at):
    job = _job(sample, tmp_path, detector_file)
    for progress in job:
        if progress.stage == "Mapping" and progress.done >= cut_at:
            break
    job.close()
    run(_job(sample, tmp_path, detector_file))
    assert _bytes(tmp_path / map_folder.name) == _bytes(map_folder)


def test_map_job_gives_the_same_bytes_on_any_number_of_cores(sample, detector_file, map_folder, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 3)
    try:
        run(_job(sample, tmp_path, detector_file))
    finally:
        torch.set_num_threads(before)
    assert _bytes(tmp_path / map_folder.name) == _bytes(map_folder)


def test_map_job_gives_the_same_bytes_whichever_threads_decode(sample, detector_file, map_folder, tmp_path, monkeypatch):
    """Of a slide that comes over the network tiles are decoded ahead."""
    monkeypatch.setattr("napari_histoad.engine.mapping._blocks.is_remote", lambda _: True)
    run(_job(sample, tmp_path, detector_file))
    assert _bytes(tmp_path / map_folder.name) == _bytes(map_folder)


@pytest.mark.parametrize("stride_px", [128, 64, 32])
def test_map_job_decodes_every_compressed_tile_once(tmp_path, stride_px):
    """However much windows overlap, and though the cache holds a fraction of the slide."""
    path = tmp_path / "wide.tif"
    image = np.random.default_rng(0).integers(60, 200, (1024, 6144, 3), np.uint8)
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb", metadata=None)
    decodes = Counter()

    class Counted(TiffSlide):
        def _decode(self, source, row, column, out):
            decodes[source, row, column] += 1
            super()._decode(source, row, column, out)

    with Counted(path, 0.5) as slide:
        slide._cache._capacity = 64 * 64 * 3 * 300  # of 1,536 tiles
        grid = TileGrid.cover(slide.shape, 0.5, tile_px=128, mpp=0.5, stride_px=stride_px)
        grid = grid.subset(work_order(grid, MapGeometry.of(grid, slide.shape, 8.0)))
        for _ in TileLoader(slide, grid, batch=16):
            pass
    assert len(decodes) == 16 * 96
    assert decodes.total() <= 1.15 * len(decodes)


def _kill_and_resume(sample, out, detector_file, kills, seed):
    """Map in a process that is killed at random moments, then once to the end; return how many kills came in time."""
    random, in_time = Random(seed), 0
    command = [sys.executable, "-m", "napari_histoad", "map", str(sample.path), "--model", str(detector_file)]
    command += ["--out", str(out), "--stride", "64", "--device", "cpu"]
    folder = out / "sample.ome.zarr"
    for _ in range(kills):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(random.randint(1, 3)):  # runs end soon after they have begun to write
            before = _written(folder)
            wait_until(partial(_ended_or_changed, process, folder, before), every_s=0.001)
        if process.poll() is None:
            process.kill()
            in_time += 1
        process.wait()
    assert subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode == 0
    return in_time


def _ended_or_changed(process, folder, before):
    return process.poll() is not None or _written(folder) != before


def _written(folder):
    """Return what tells that a run has begun to write: the number of chunks, and how long the journal is."""
    journal = folder / "journal"
    with contextlib.suppress(OSError):
        return sum(1 for _ in folder.rglob("c/*")), journal.stat().st_size if journal.exists() else 0
    return 0, 0


def test_map_job_gives_the_same_bytes_after_a_kill(sample, detector_file, map_folder, tmp_path):
    assert _kill_and_resume(sample, tmp_path, detector_file, kills=2, seed=0) > 0
    assert _bytes(tmp_path / map_folder.name) == _bytes(map_folder)


def test_map_job_gives_the_same_bytes_after_a_kill_while_finishing(sample, detector_file, map_folder, tmp_path):
    """It is marked as complete, but the journal and a half-written file are still there."""
    again = shutil.copytree(map_folder, tmp_path / map_folder.name)
    (again / "journal").write_text("0\n")
    (again / "0" / "c" / "0.0.1234.partial").write_bytes(b"half")
    run(_job(sample, tmp_path, detector_file))
    assert _bytes(again) == _bytes(map_folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # some 40 runs, each of which imports torch
def test_map_job_gives_the_same_bytes_after_twenty_kills(sample, detector_file, map_folder, tmp_path):
    in_time = 0
    for i in itertools.count():
        out = tmp_path.with_name(f"{tmp_path.name}-{i}")  # as deep as the others' folders: maps hold a relative path
        in_time += _kill_and_resume(sample, out, detector_file, kills=4, seed=i)
        assert _bytes(out / map_folder.name) == _bytes(map_folder)
        if in_time >= 20:  # how many come in time depends on the machine
            break


def test_map_job_refuses_a_map_that_another_run_writes(sample, detector_file, tmp_path):
    job = _job(sample, tmp_path, detector_file)
    for progress in job:
        if progress.stage == "Mapping" and progress.done:
            break
    with pytest.raises(OutputError, match="another run is writing"):
        run(_job(sample, tmp_path, detector_file))
    job.close()
    assert run(_job(sample, tmp_path, detector_file)).info.complete


def test_map_job_without_a_detector_learns_normal_from_the_slide(sample, tmp_path):
    result = map_slide(sample.path, tmp_path, device="cpu")
    assert "on the mapped slide itself" in result.info.calibration_note
    assert evaluate(result, sample.plan.planted).auroc.value > 0.6


def test_map_job_scores_only_tiles_inside_the_regions(sample, detector_file, tmp_path):
    result = map_slide(sample.path, tmp_path, model=detector_file, regions=sample.plan.normal[:1], device="cpu")
    inside = np.asarray([sample.plan.normal[0].geometry.buffer(64).contains(p) for p in _centres(result)])
    assert inside.all()


def _centres(result):
    return shapely.points(result.origins + result.info.tile_l0 / 2)


def test_map_job_refuses_a_changed_model(sample, detector_file, map_folder):
    other = load_detector(detector_file)
    other.calibration = type(other.calibration)(other.calibration.scores + 1)
    with open_slide(sample.path) as slide, pytest.raises(MapError, match="its detector"):
        run(map_job(slide, map_folder.parent, detector=other, stride_px=64, device="cpu"))


def test_map_job_continues_and_gives_nan_for_damaged_tiles(sample, detector_file, tmp_path, monkeypatch):
    slide = open_slide(sample.path)
    real = type(slide).read_scaled

    def broken(self, y, x, *rest, **options):
        if y == x and options.get("out") is not None and len(options["out"]) == 64:
            raise SlideError("broken tile")
        return real(self, y, x, *rest, **options)

    monkeypatch.setattr(type(slide), "read_scaled", broken)
    result = run(map_job(slide, tmp_path, detector=load_detector(detector_file), stride_px=64, device="cpu"))
    on_diagonal = result.origins[:, 0] == result.origins[:, 1]
    assert np.array_equal(np.isnan(result.scores), on_diagonal)
    assert result.info.failed_tiles == on_diagonal.sum() > 0


def test_map_job_explains_bad_input_and_writes_nothing(sample, detector_file, tmp_path, write_tiff):
    out = tmp_path / "out"

    def check(kind, word, slide=sample.path, **options):
        with pytest.raises(kind, match=word):
            map_slide(slide, out, **{"model": detector_file, "device": "cpu", **options})
        assert not out.exists() or not list(out.iterdir())

    check(MissingMppError, "does not state its resolution", slide=write_tiff(np.zeros((99, 99, 3), np.uint8), "a.tif", mpp=None))
    check(EmptyTissueError, "no tissue", slide=write_tiff(np.full((999, 999, 3), 240, np.uint8), "b.tif"))
    check(BundleError, "no detector file", model=tmp_path / "none.safetensors")
    check(RegionError, "hold no tissue", regions=[Region(box(0, 0, 100, 100))])
    check(SettingsError, "stride", stride_px=65)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        map_slide(sample.path, tmp_path / "file", model=detector_file, device="cpu")


def test_autocast_uses_float32_for_detectors_that_do_not_allow_bfloat16(detector_file):
    choice, rng = choose_device("cpu"), np.random.default_rng(0)
    for error, bears in (("mean", True), ("mahalanobis", False)):
        detector = load_detector(detector_file, error=error)
        assert detector.allows_bfloat16 is bears
        images = rng.integers(0, 256, (4, detector.settings.tile_px, detector.settings.tile_px, 3), np.uint8)
        batch = next(batches_of(images, 4))
        fast, exact = (score_batch(detector, batch, replace(choice, bf16=bf16)).scores for bf16 in (True, False))
        assert np.array_equal(fast, exact) is not bears
