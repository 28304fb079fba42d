"""Copies of layers that are no files: one per picture, whatever the layers are called."""

import numpy as np

from napari_histoad.gui.slide_copy import copy_path
from napari_histoad.jobs import run
from napari_histoad.slide import ArraySlide, convert_job


def test_copy_path_is_the_same_for_the_same_pixels_only(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (1100, 90, 3), np.uint8)
    changed = pixels.copy()
    changed[-1, -1] ^= 1
    pictures = [ArraySlide([p], "photo", mpp=0.5) for p in (pixels, changed, pixels[:600])]
    names = []
    for picture in pictures:
        names.append(copy_path(picture, tmp_path / "photo.tif"))
        run(convert_job(picture, names[-1], lossless=True))
    assert [p.name for p in names] == ["photo.tif", "photo-2.tif", "photo-3.tif"]
    again = [ArraySlide([p.copy()], "photo", mpp=0.25) for p in (pixels, changed, pixels[:600])]
    assert [copy_path(picture, tmp_path / "photo.tif") for picture in again] == names


def test_copy_path_does_not_overwrite_other_files(tmp_path):
    (tmp_path / "photo.tif").write_bytes(b"something else")
    picture = ArraySlide([np.zeros((64, 64, 3), np.uint8)], "photo", mpp=0.5)
    assert copy_path(picture, tmp_path / "photo.tif").name == "photo-2.tif"
