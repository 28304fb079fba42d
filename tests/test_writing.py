"""Real errors of the file system: a full disk, and a folder without write permission."""

import os
import re
import subprocess

import pytest
from map_makers import bytes_of

from napari_histoad import AnomalyMap, load_detector, map_slide, open_slide, save_detector, train, write_geojson, write_sample
from napari_histoad.engine import map_job
from napari_histoad.errors import OutputError
from napari_histoad.jobs import run
from napari_histoad.results import GeoJsonExport, PngExport, write_report

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and mounts")


def mount(folder, options):
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting a small disk needs more rights: {done.stderr.strip()}")


@pytest.fixture
def locked(tmp_path):
    """A folder that may not be written to. The superuser may write anywhere, except on a read-only disk."""
    folder = tmp_path / "locked"
    if os.geteuid() == 0:
        mount(folder, "ro")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        folder.mkdir(mode=0o555)
        yield folder
        folder.chmod(0o755)


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 400 kB."""
    folder = tmp_path / "disk"
    mount(folder, "size=400k")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_writers_report_a_folder_without_permission_in_one_line(locked, sample, detector_file, map_folder):
    detector, anomaly_map = load_detector(detector_file), AnomalyMap.open(map_folder)
    slide = open_slide(sample.path)
    writers = {
        "map": lambda: run(map_job(slide, locked, detector=detector, device="cpu")),
        "bundle": lambda: save_detector(detector, locked / "d.safetensors"),
        "regions": lambda: write_geojson(sample.plan.normal, locked / "r.geojson"),
        "sample": lambda: write_sample(locked / "s.tif", 1024),
        "geojson": lambda: GeoJsonExport().write(anomaly_map, locked / "a.geojson"),
        "png": lambda: PngExport().write(anomaly_map, locked / "a.png", slide=slide),
        "report": lambda: write_report([(anomaly_map, slide)], locked / "a.html"),
    }
    for name, write in writers.items():
        with pytest.raises(OutputError) as caught:
            write()
        assert re.search("may write to|read-only", str(caught.value)), name
        assert "\n" not in str(caught.value), name
    assert not list(locked.iterdir())


def test_map_job_continues_after_a_full_disk_has_room_again(full_disk, sample, detector_file, map_folder):
    (full_disk / "ballast").write_bytes(bytes(330_000))
    with pytest.raises(OutputError, match="disk is full"):
        map_slide(sample.path, full_disk / "out", model=detector_file, stride_px=64, device="cpu")
    (full_disk / "ballast").unlink()
    result = map_slide(sample.path, full_disk / "out", model=detector_file, stride_px=64, device="cpu")
    assert bytes_of(result.path) == bytes_of(map_folder)


def test_full_disk_leaves_no_partial_files(full_disk, sample, detector_file):
    with pytest.raises(OutputError, match="disk is full"):
        write_sample(full_disk / "s.tif", 2048)
    detector = load_detector(detector_file)
    with pytest.raises(OutputError, match="disk is full"):
        save_detector(detector, full_disk / "d.safetensors")
    with pytest.raises(OutputError, match="disk is full"):
        train(sample.path, full_disk / "t.safetensors", normal=sample.plan.normal, tile_px=64, max_steps=12, device="cpu")
    assert not [p for p in full_disk.iterdir() if "checkpoint" not in p.name]
