"""DICOM in encodings that OpenSlide refuses, compared with one that it reads."""

import pickle
import threading

import numpy as np
import openslide
import pytest
from dicom_writer import ENCODINGS, write_dicom
from slide_writers import half, picture

from napari_histoad import open_slide
from napari_histoad.errors import SlideError

IMAGE = picture(150, 200)
LEVELS = (IMAGE, half(IMAGE))


@pytest.fixture(scope="module", params=ENCODINGS)
def dicom(request, tmp_path_factory):
    return request.param, write_dicom(tmp_path_factory.mktemp("dicom"), LEVELS, request.param)


def test_dicom_of_every_encoding_has_the_written_pixels(dicom):
    name, path = dicom
    with open_slide(path) as slide:
        assert slide.format == ("OpenSlide dicom" if name == "jpeg 2000" else "DICOM")
        assert [level.shape for level in slide.levels] == [(150, 200), (75, 100)]
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)
        assert np.array_equal(slide.read(0, 0, 0, 150, 200), IMAGE)
        assert np.array_equal(slide.read(1, 10, 20, 60, 50), LEVELS[1][10:70, 20:70])
        outside = slide.read(0, 140, 190, 20, 20)
        assert np.array_equal(outside[:10, :10], IMAGE[140:, 190:])
        assert (outside[10:] == 255).all()


def test_openslide_refuses_the_encodings_that_are_decoded_here(dicom):
    name, path = dicom
    if name == "jpeg 2000":
        pytest.skip("this one OpenSlide reads")
    with pytest.raises(openslide.OpenSlideError, match="Unsupported transfer syntax"):
        openslide.OpenSlide(path)


def test_dicom_reads_the_same_by_folder_pickle_and_threads(tmp_path):
    path = write_dicom(tmp_path / "one", LEVELS, "rle")
    other = write_dicom(tmp_path / "two", (255 - IMAGE,), "rle")
    other.rename(path.with_name("of another slide.dcm"))  # first by name, but of another series
    with open_slide(path) as slide:
        assert len(slide.levels) == 2
        again = pickle.loads(pickle.dumps(slide))
        right = []

        def read(seed):
            rng = np.random.default_rng(seed)
            for _ in range(20):
                y, x = int(rng.integers(0, 100)), int(rng.integers(0, 150))
                right.append(np.array_equal(again.read(0, y, x, 50, 50), IMAGE[y : y + 50, x : x + 50]))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(right) == 80
        assert all(right)
        again.close()
    with pytest.raises(SlideError, match="has been closed"):
        slide.read(0, 0, 0, 10, 10)
    path.with_name("of another slide.dcm").unlink()
    with open_slide(path.parent) as slide:
        assert slide.shape == (150, 200)


def test_damaged_dicom_is_reported_in_one_line(tmp_path):
    path = write_dicom(tmp_path / "one", LEVELS, "jpeg-ls")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlideError, match=r"level0\.dcm|it has \d+ of"), open_slide(path) as slide:
        slide.read(0, 0, 0, 150, 200)


@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.png", "a.json", ".hidden"])
def test_dicom_file_is_read_whatever_its_name(tmp_path, name):
    image = picture(150, 200)
    write_dicom(tmp_path / "one", (image,), "jpeg 2000")
    file = next(tmp_path.rglob("*.dcm"))
    with open_slide(file.rename(tmp_path / name)) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 150, 200), image)
        assert slide.name == name.rpartition(".")[0] or name


def test_dicomdir_is_refused_with_the_folder_to_open(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(64))
    with pytest.raises(SlideError, match="only lists DICOM files") as error:
        open_slide(tmp_path / "DICOMDIR")
    assert str(tmp_path) in error.value.remedy
