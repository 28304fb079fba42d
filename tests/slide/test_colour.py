import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from slide_writers import linear_profile, picture

from napari_histoad import open_slide
from napari_histoad.slide._colour import ToSrgb

IMAGE = picture(200, 170)


def encoded(linear):
    """sRGB's gamma (IEC 61966-2-1)."""
    x = linear / 255
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


@pytest.fixture
def path(write_tiff):
    return write_tiff(IMAGE, iccprofile=linear_profile())


def test_colours_are_converted_on_request_only(path):
    with open_slide(path) as plain, open_slide(path, srgb=True) as converted:
        assert plain.icc_profile == linear_profile()
        assert np.array_equal(plain.read(0, 0, 0, 200, 170), IMAGE)
        assert np.abs(converted.read(0, 0, 0, 200, 170) - encoded(IMAGE)).max() <= 2


def test_glass_stays_white_and_small_boxes_agree_with_large_ones(path):
    with open_slide(path, srgb=True) as slide:
        whole = slide.read(0, -20, -20, 240, 210)
        assert (whole[:20] == 255).all()
        assert np.array_equal(slide.read(0, 60, 60, 20, 20), whole[80:100, 80:100])


def test_the_choice_survives_pickling_and_another_resolution(path):
    with open_slide(path, srgb=True) as slide:
        assert pickle.loads(pickle.dumps(slide)).srgb
        assert slide.with_mpp(0.3).srgb
        assert not slide.in_srgb(False).srgb
        assert slide.in_srgb(True) is slide


def test_threads_share_a_slide(path):
    with open_slide(path, srgb=True) as slide, ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: slide.read(0, 0, 0, 200, 170), range(40)))
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("profile", [b"nonsense", linear_profile(b"GRAY"), linear_profile()[:150]])
def test_profiles_that_are_none_are_passed_over(write_tiff, profile):
    with pytest.raises(ValueError, match="profile"):
        ToSrgb(profile)
    with open_slide(write_tiff(IMAGE, iccprofile=profile), srgb=True) as slide:
        assert slide.icc_profile is None
        assert not slide.srgb
        assert np.array_equal(slide.read(0, 0, 0, 200, 170), IMAGE)


def test_a_slide_without_a_profile_is_left_alone(write_tiff):
    with open_slide(write_tiff(IMAGE), srgb=True) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 200, 170), IMAGE)
        assert slide.in_srgb(True) is slide
