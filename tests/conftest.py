"""Slides are written by fixtures; nothing is downloaded. Real slides are used where HISTOAD_DATA has them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from disk_failures import SimulatedDisk
from hypothesis import HealthCheck, settings

from napari_histoad.samples import SlidePlan, write_sample

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLE_PX = 2048
os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # typer colours help texts on GitHub Actions, which tests compare

# How long an example takes depends on what else the machine does.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a file's tests in one process, for they share what they made; and all windows, for there is one screen."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "windows" if "/gui/" in file else file

    return ByFile(config, log)


@dataclass(frozen=True)
class Sample:
    path: Path
    plan: SlidePlan


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Sample:
    """A small sample slide with its plan."""
    path = write_sample(tmp_path_factory.mktemp("sample") / "sample.tif", SAMPLE_PX)
    return Sample(path, SlidePlan(SAMPLE_PX))


@pytest.fixture(scope="session")
def detector_file(sample, tmp_path_factory) -> Path:
    """A small VQ-VAE, briefly trained on the sample's normal outlines."""
    from napari_histoad import train

    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    settings = {"target": "pixels", "tile_px": 64, "max_steps": 30}
    train(sample.path, path, normal=sample.plan.normal, detector="vqvae", device="cpu", **settings)
    return path


@pytest.fixture(scope="session")
def map_folder(sample, detector_file, tmp_path_factory) -> Path:
    """The finished map of the sample slide."""
    from napari_histoad import map_slide

    out = tmp_path_factory.mktemp("maps")
    return map_slide(sample.path, out, model=detector_file, stride_px=64, device="cpu").path


@pytest.fixture
def write_tiff(tmp_path) -> Callable[..., Path]:
    """Return a function that writes a tiled RGB TIFF."""

    def write(image, name="slide.tif", tile=(64, 64), mpp=0.5, levels=1, step=2, compression=None, **options) -> Path:
        path = tmp_path / name
        if mpp is not None:
            options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
        with tifffile.TiffWriter(path) as tif:
            for level in range(levels):
                part = np.ascontiguousarray(image[:: step**level, :: step**level])
                tif.write(
                    part,
                    tile=tile,
                    photometric="rgb",
                    compression=compression,
                    subfiletype=int(level > 0),
                    metadata=None,
                    **options,
                )
        return path

    return write


@pytest.fixture
def data_folder() -> Path:
    """The folder of real slides; the test is skipped where it is absent."""
    folder = Path(os.environ.get("HISTOAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "slides").is_dir():
        pytest.skip("no real slides: set HISTOAD_DATA to their folder")
    return folder


@pytest.fixture(autouse=True)
def own_config(tmp_path_factory, monkeypatch):
    """Keep what is remembered between sessions out of the user's own folders."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


@pytest.fixture
def add_package(tmp_path_factory, monkeypatch) -> Callable[[str, str, dict[str, dict[str, str]]], Path]:
    """Return a function that installs a package of one module for the test: ``add(name, code, {group: {name: value}})``.

    It returns the folder to put on PYTHONPATH for other processes to find the package, too.
    """

    def add(name: str, code: str, entry_points: dict[str, dict[str, str]]) -> Path:
        folder = tmp_path_factory.mktemp("site")
        module, metadata = name.replace("-", "_"), folder / f"{name.replace('-', '_')}-1.0.dist-info"
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
        lines = [
            line for group, points in entry_points.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))
        ]
        (metadata / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, module, raising=False)
        return folder

    return add


@pytest.fixture
def toy_package(add_package, monkeypatch) -> None:
    """The package of `toy_package.py` is installed, also for other processes."""
    from toy_package import ENTRY_POINTS

    code = (Path(__file__).parent / "toy_package.py").read_text(encoding="utf-8")
    folder = add_package("toy-package", code, ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))


@pytest.fixture
def simulated_disk(tmp_path, monkeypatch):
    """A folder whose content after a power failure can be computed, see `SimulatedDisk`."""
    if os.name == "nt":
        pytest.skip("Windows cannot flush folders")
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = SimulatedDisk(folder, monkeypatch)
    yield disk
    disk.close()
