import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from dicom_writer import write_dicom
from PIL import Image, ImageCms, PngImagePlugin
from slide_writers import linear_profile, picture

from napari_histoad import open_slide
from napari_histoad.jobs import run
from napari_histoad.slide import convert_job
from napari_histoad.slide._colour import ToSrgb

IMAGE = picture(200, 170)


def encoded(linear):
    """sRGB's gamma (IEC 61966-2-1)."""
    x = linear / 255
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


@pytest.fixture
def path(write_tiff):
    return write_tiff(IMAGE, iccprofile=linear_profile())


def test_srgb_conversion_is_only_on_request(path):
    with open_slide(path) as plain, open_slide(path, srgb=True) as converted:
        assert plain.icc_profile == linear_profile()
        assert np.array_equal(plain.read(0, 0, 0, 200, 170), IMAGE)
        assert np.abs(converted.read(0, 0, 0, 200, 170) - encoded(IMAGE)).max() <= 2


def test_srgb_conversion_keeps_white_and_agrees_between_box_sizes(path):
    with open_slide(path, srgb=True) as slide:
        whole = slide.read(0, -20, -20, 240, 210)
        assert (whole[:20] == 255).all()
        assert np.array_equal(slide.read(0, 60, 60, 20, 20), whole[80:100, 80:100])


def test_srgb_setting_is_kept_when_pickled_or_given_another_mpp(path):
    with open_slide(path, srgb=True) as slide:
        assert pickle.loads(pickle.dumps(slide)).srgb
        assert slide.with_mpp(0.3).srgb
        assert not slide.in_srgb(False).srgb
        assert slide.in_srgb(True) is slide


def test_srgb_conversion_is_thread_safe(path):
    with open_slide(path, srgb=True) as slide, ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: slide.read(0, 0, 0, 200, 170), range(40)))
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("profile", [b"nonsense", linear_profile(b"GRAY"), linear_profile()[:150]])
def test_to_srgb_refuses_invalid_profiles(write_tiff, profile):
    with pytest.raises(ValueError, match="profile"):
        ToSrgb(profile)
    with open_slide(write_tiff(IMAGE, iccprofile=profile), srgb=True) as slide:
        assert slide.icc_profile is None
        assert not slide.srgb
        assert np.array_equal(slide.read(0, 0, 0, 200, 170), IMAGE)


def test_srgb_does_nothing_without_a_profile(write_tiff):
    with open_slide(write_tiff(IMAGE), srgb=True) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 200, 170), IMAGE)
        assert slide.in_srgb(True) is slide


def _altered(start, stop, value):
    profile = bytearray(linear_profile())
    profile[start:stop] = value * (stop - start)
    return bytes(profile)


def _lab():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def _save(kind, path, profile):
    if kind == "tif":
        tifffile.imwrite(path, IMAGE, photometric="rgb", tile=(64, 64), iccprofile=profile)
    elif kind == "dcm":
        return write_dicom(path.with_suffix(""), (IMAGE,), "jpeg 2000", icc=profile)
    else:
        Image.fromarray(IMAGE).save(path, icc_profile=profile)
    return path


@pytest.mark.parametrize("kind", ["tif", "png", "jpg", "dcm"])
@pytest.mark.parametrize(
    "profile",
    [
        b"not a profile at all",
        linear_profile(b"GRAY"),
        linear_profile(b"CMYK"),
        _lab(),
        linear_profile()[:150],
        linear_profile()[:-10],
        _altered(128, 132, b"\xff"),
        _altered(140, 200, b"\xff"),
    ],
)
def test_invalid_profile_is_ignored_with_a_note_and_not_copied(tmp_path, kind, profile):
    path = _save(kind, tmp_path / f"case.{kind}", profile)
    with open_slide(path, srgb=True) as slide, open_slide(path) as plain:
        assert slide.icc_profile is None
        assert [note for note in slide.notes if note.startswith("Its colour profile is ignored: ")]
        assert np.array_equal(slide.read(0, 0, 0, 200, 170), plain.read(0, 0, 0, 200, 170))
        run(convert_job(slide, tmp_path / "copy.tif", lossless=True))
    with open_slide(tmp_path / "copy.tif") as copy:
        assert copy.icc_profile is None
        assert not [note for note in copy.notes if "profile" in note]


@pytest.mark.parametrize("kind", ["tif", "png", "jpg", "dcm"])
def test_srgb_conversion_works_in_every_format(tmp_path, kind):
    path = _save(kind, tmp_path / f"case.{kind}", linear_profile())
    with open_slide(path, srgb=True) as converted, open_slide(path) as plain:
        assert converted.srgb
        assert not [note for note in plain.notes if "profile" in note]
        pixels = plain.read(0, 0, 0, 200, 170).astype(float)
        assert np.abs(converted.read(0, 0, 0, 200, 170) - encoded(pixels)).max() <= 2


def test_profile_that_inverts_brightness_is_ignored(write_tiff, monkeypatch):
    monkeypatch.setattr(ImageCms, "applyTransform", lambda image, transform: Image.eval(image, lambda v: 255 - v))
    with open_slide(write_tiff(IMAGE, iccprofile=linear_profile()), srgb=True) as slide:
        assert slide.icc_profile is None
        assert "darker" in slide.notes[-1]


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_png_with_a_profile_of_megabytes_is_read(tmp_path, name):
    profile = linear_profile() + bytes(2_000_000)
    Image.fromarray(IMAGE).save(tmp_path / name, icc_profile=profile)
    with open_slide(tmp_path / name) as slide:
        assert slide.icc_profile == profile
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20  # Pillow's own limit holds for all others
