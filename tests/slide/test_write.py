from contextlib import closing

import numpy as np
import pytest
import tifffile
from slide_writers import picture, write_svs

from napari_histoad import open_slide
from napari_histoad.errors import OutputError, SlideError
from napari_histoad.jobs import run
from napari_histoad.slide import ArraySlide, convert_job

IMAGE = picture(1500, 1300)


@pytest.mark.parametrize("mpp", [None, 0.5])
def test_convert_lossless_has_the_same_pixels_and_a_pyramid(tmp_path, mpp):
    events = []
    path = run(convert_job(ArraySlide([IMAGE], "layer", mpp=mpp), tmp_path / "copy.tif", lossless=True), events.append)
    assert [e.done for e in events] == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["copy.tif"]
    with open_slide(path) as slide:
        assert [level.shape for level in slide.levels] == [(1500, 1300), (375, 325)]
        assert np.array_equal(slide.read(0, 0, 0, 1500, 1300), IMAGE)
        assert slide.mpp == (None if mpp is None else pytest.approx(0.5))
        expected = IMAGE.reshape(375, 4, 325, 4, 3).mean((1, 3))
        assert np.abs(slide.read(1, 0, 0, 375, 325) - expected).max() <= 1
    assert tifffile.imread(path).shape == (1500, 1300, 3)


def test_convert_to_jpeg_is_close(tmp_path):
    path = run(convert_job(ArraySlide([IMAGE], "layer"), tmp_path / "copy.tif"))
    with open_slide(path) as slide:
        assert np.abs(slide.read(0, 0, 0, 1500, 1300).astype(int) - IMAGE).mean() < 2


def test_convert_of_a_broken_slide_leaves_no_file(tmp_path):
    broken = write_svs(tmp_path / "s.svs", IMAGE, compression="jpeg")
    with tifffile.TiffFile(broken) as tif:
        offset, count = tif.pages[0].dataoffsets[5], tif.pages[0].databytecounts[5]
    data = bytearray(broken.read_bytes())
    data[offset : offset + count] = bytes(count)
    broken.write_bytes(data)
    with open_slide(broken) as slide, pytest.raises(SlideError, match="column 5"):
        run(convert_job(slide, tmp_path / "out" / "copy.tif"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        run(convert_job(ArraySlide([IMAGE], "layer"), tmp_path / "file" / "copy.tif"))


def test_convert_refuses_an_output_that_another_run_writes(tmp_path):
    def begin():
        return convert_job(ArraySlide([IMAGE], "layer"), tmp_path / "copy.tif")

    with closing(begin()) as first:
        next(first)
        with pytest.raises(OutputError, match="another run is writing"), closing(begin()) as second:
            next(second)
    assert not list(tmp_path.iterdir())
