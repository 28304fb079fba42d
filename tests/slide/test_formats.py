"""Slide formats: those of this package, and one that another package adds."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from npe2 import PluginManifest

from napari_histoad.errors import SlideError
from napari_histoad.slide import can_open, is_slide, open_slide
from napari_histoad.slide._formats import BUILT_IN, slide_formats
from napari_histoad.system.extensions import load_extensions

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def test_open_slide_and_histoad_info_use_a_format_of_another_package(request, tmp_path):
    np.save(tmp_path / "a.npy", IMAGE)
    with pytest.raises(SlideError, match="not a slide"):
        open_slide(tmp_path / "a.npy")
    request.getfixturevalue("toy_package")
    assert can_open("B.NPY")
    assert is_slide(tmp_path / "a.npy")
    with open_slide(tmp_path / "a.npy", 0.5) as slide, pickle.loads(pickle.dumps(slide)) as copy:
        assert slide.format == copy.format == "NumPy array"
        assert copy.mpp == 0.5
        assert np.array_equal(copy.read(0, 0, 0, 60, 80), IMAGE)
    command = [sys.executable, "-c", "from napari_histoad.cli import main; main()", "info", str(tmp_path / "a.npy"), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert "NumPy array" in json.dumps(told)


def test_open_slide_reports_why_a_format_of_another_package_refused_a_file(toy_package, tmp_path):
    np.save(tmp_path / "a.npy", IMAGE[..., 0])
    with pytest.raises(SlideError, match=r"a\.npy is not a slide that can be read: it has 2 axes; save an array of 3 axes"):
        open_slide(tmp_path / "a.npy")


def test_slide_formats_are_sorted_by_priority_and_openslide_is_last():
    assert set(slide_formats()) == {*BUILT_IN, *load_extensions("napari_histoad.slide_formats").values()}
    priorities = [one.priority for one in slide_formats()]
    assert priorities == sorted(priorities, reverse=True)
    assert slide_formats()[-1].__name__ == "OpenSlideSlide"


def test_manifest_lists_the_file_patterns_of_the_built_in_formats():
    (reader,) = PluginManifest.from_distribution("napari-histoad").contributions.readers
    annotations = {"*.geojson", "*.geojson.gz", "*.json"}
    assert set(reader.filename_patterns) - annotations == {pattern for one in BUILT_IN for pattern in one.patterns}
