"""Slides as lazy arrays."""

import copy
import pickle

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad import open_slide
from napari_histoad.errors import SlideError
from napari_histoad.slide import ArraySlide, level_arrays, pyramid

SHAPE = (150, 210)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)


def _picture(h, w):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)


@pytest.fixture(scope="module")
def level():
    """A level of 3 x 4 chunks, those at the edges smaller."""
    (array,) = level_arrays(ArraySlide([IMAGE], "x", tile=(32, 32)), chunk_px=64)
    return array


def _spans(length):
    bounds = st.none() | st.integers(-length - 20, length + 20)
    return st.builds(slice, bounds, bounds, st.none() | st.integers(1, 90)) | st.integers(-length, length - 1)


@given(y=_spans(SHAPE[0]), x=_spans(SHAPE[1]), channel=st.sampled_from([slice(None), 0, -1, slice(0, 2)]))
def test_level_array_is_indexed_like_numpy(level, y, x, channel):
    assert np.array_equal(level[y, x, channel], IMAGE[y, x, channel])
    assert np.array_equal(level[y], IMAGE[y])
    assert np.array_equal(level[..., x, channel], IMAGE[..., x, channel])
    assert np.array_equal(level[y, ...], IMAGE[y, ...])


@pytest.mark.parametrize(
    "key", [SHAPE[0], (0, -SHAPE[1] - 1), (0, 0, 3), np.s_[0, 0, 0, 0], np.s_[::-1], np.s_[:, ::-2]], ids=str
)
def test_level_array_refuses_indices_out_of_bounds_and_negative_steps(level, key):
    with pytest.raises(IndexError):
        level[key]


def test_level_array_is_accepted_by_numpy_and_dask(level):
    assert (level.shape, level.ndim, level.size, len(level)) == ((150, 210, 3), 3, 150 * 210 * 3, 150)
    assert level.chunks == (64, 64, 3)
    assert level.dtype == np.uint8
    assert np.array_equal(np.asarray(level), IMAGE)
    assert np.asarray(level, np.float32).dtype == np.float32
    assert np.array_equal(da.from_array(level, chunks=level.chunks)[40:90, 60:200], IMAGE[40:90, 60:200])
    assert copy.deepcopy(level) is level
    assert np.array_equal(pickle.loads(pickle.dumps(level))[:70], IMAGE[:70])


def test_level_array_returns_read_only_pixels(level):
    part = level[10:20, 10:20]
    with pytest.raises(ValueError, match="read-only"):
        part[:] = 0
    joined = level[50:80, 50:80]
    joined[:] = 0
    assert np.array_equal(level[50:80, 50:80], IMAGE[50:80, 50:80])


def test_level_array_raises_errors_of_its_reader_threads():
    class Broken:
        shape, dtype = IMAGE.shape, IMAGE.dtype

        def __getitem__(self, key):
            if key[1].start >= 128:
                raise OSError("the share is gone")
            return IMAGE[key]

    (array,) = level_arrays(ArraySlide([Broken()], "x", tile=(64, 64)), chunk_px=64)
    assert np.array_equal(array[:, :128], IMAGE[:, :128])
    with pytest.raises(SlideError, match="the share is gone"):
        array[:, 100:200]


def test_pyramid_is_lazy_complete_and_equally_chunked(write_tiff):
    image = _picture(2500, 900)
    with open_slide(write_tiff(image, tile=(256, 256))) as slide:
        arrays = pyramid(slide, chunk_px=512)
        assert len(arrays) == 2
        assert {a.chunksize[0] for a in arrays} == {512}
        assert np.array_equal(arrays[0][600:700, 100:220].compute(), image[600:700, 100:220])
        assert arrays[1].compute().mean() == pytest.approx(image.mean(), abs=1)


def test_pyramid_adds_half_sizes_between_distant_levels(write_tiff):
    image = _picture(1000, 800)
    with open_slide(write_tiff(image, levels=2, step=4)) as slide:
        arrays = pyramid(slide)
        assert [a.shape[:2] for a in arrays] == [(1000, 800), (500, 400), (250, 200)]
        halves = image.reshape(500, 2, 400, 2, 3).mean((1, 3))
        assert np.abs(arrays[1].compute() - halves).max() <= 1
        assert np.array_equal(arrays[2].compute(), image[::4, ::4])
    with open_slide(write_tiff(image, "b.tif", levels=3)) as slide:
        assert len(pyramid(slide)) == 3


def test_pyramid_reads_a_chunk_once_and_pickles(write_tiff, monkeypatch):
    image = _picture(2500, 900)
    read = []
    with open_slide(write_tiff(image, tile=(256, 256))) as slide:
        for name in ("read", "read_scaled"):
            real = getattr(type(slide), name)
            monkeypatch.setattr(type(slide), name, lambda self, *a, real=real, **k: read.append(a) or real(self, *a, **k))
        arrays = pyramid(slide, chunk_px=512)
        first = [array.compute() for array in arrays]
        reads = len(read)
        assert reads == sum(array.npartitions for array in arrays)
        moved = arrays[0][512:2500, :512].compute()
        assert len(read) == reads
        assert np.array_equal(moved, first[0][512:, :512])
        assert np.array_equal(pickle.loads(pickle.dumps(arrays[0]))[:300].compute(), image[:300])
