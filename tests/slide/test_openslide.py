"""Formats that only OpenSlide reads, written here: positions of pixels, bounds and errors."""

import numpy as np
import openslide
import pytest
from dicom_writer import write_dicom
from slide_writers import half, picture, write_bif, write_czi, write_mrxs, write_sakura, write_trestle, write_vms

from napari_histoad import open_slide
from napari_histoad.errors import SlideError

IMAGE = picture(256, 320)


def _difference(pixels, wanted):
    assert pixels.shape == wanted.shape
    return np.abs(pixels.astype(int) - wanted).mean()


@pytest.mark.parametrize("preview", [True, False])
def test_mrxs_is_read_from_its_folder_and_cropped_to_its_bounds(tmp_path, preview):
    path = write_mrxs(tmp_path / "slide.mrxs", IMAGE, preview=preview)
    with open_slide(path) as slide:
        assert slide.format == "OpenSlide mirax"
        assert slide.mpp == 0.25
        assert [level.shape for level in slide.levels] == [(256, 320), (128, 160)]  # not the grid, and not the preview
        assert _difference(slide.read(0, 0, 0, 256, 320), IMAGE) < 2
        assert _difference(slide.read(1, 0, 0, 128, 160), half(IMAGE)) < 2
        assert _difference(slide.read(0, 70, 130, 90, 33), IMAGE[70:160, 130:163]) < 2
        assert _difference(slide.read_at(0.5, 0, 0, 128, 160), half(IMAGE)) < 2


def test_mrxs_is_white_where_it_was_not_scanned(tmp_path):
    path = write_mrxs(tmp_path / "slide.mrxs", IMAGE, missing=[(1, 2)])
    with open_slide(path) as slide:
        pixels = slide.read(0, 0, 0, 256, 320)
    assert (pixels[64:128, 128:192] == 255).all()
    pixels[64:128, 128:192] = IMAGE[64:128, 128:192]
    assert _difference(pixels, IMAGE) < 2


def test_mrxs_without_its_folder_is_reported(tmp_path):
    path = write_mrxs(tmp_path / "slide.mrxs", IMAGE)
    path.with_suffix("").rename(tmp_path / "elsewhere")
    with pytest.raises(SlideError, match=r"slide\.mrxs"):
        open_slide(path)


@pytest.mark.parametrize(
    ("write", "name", "shape", "mpp"),
    [
        (write_trestle, "slide.tif", (232, 288), 0.5),
        (write_bif, "slide.bif", (256, 288), 0.465),
        (write_bif, "slide.tif", (256, 288), 0.465),
    ],
)
def test_overlapping_tiles_of_trestle_and_ventana_are_joined(tmp_path, capfd, write, name, shape, mpp):
    with open_slide(write(tmp_path / name, IMAGE)) as slide:
        assert slide.format in ("OpenSlide trestle", "OpenSlide ventana")
        assert slide.shape == shape
        assert slide.mpp == mpp
        assert _difference(slide.read(0, 0, 0, *shape), IMAGE[: shape[0], : shape[1]]) < 2
    assert capfd.readouterr().err == ""


def test_zeiss_in_jpeg_xr_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(SlideError, match=r"slide\.czi .*JPEG XR.*; convert it to OME-TIFF"):
        open_slide(write_czi(tmp_path / "slide.czi", IMAGE, compression="JPEG XR"))


def test_vms(tmp_path):
    image = picture(320, 640)
    with open_slide(write_vms(tmp_path / "slide.vms", image)) as slide:
        assert slide.format == "OpenSlide hamamatsu"
        assert slide.shape == (320, 640)
        assert slide.mpp == 0.5
        assert _difference(slide.read(0, 0, 0, 320, 640), image) < 2
        assert set(slide.associated) == {"macro"}


@pytest.mark.parametrize("shape", [(256, 320), (201, 333)])
def test_sakura(tmp_path, shape):
    image = picture(*shape)
    with open_slide(write_sakura(tmp_path / "slide.svslide", image)) as slide:
        assert slide.format == "OpenSlide sakura"
        assert slide.mpp == 0.5
        assert [level.shape for level in slide.levels] == [shape, half(image).shape[:2]]
        assert _difference(slide.read(0, 0, 0, *shape), image) < 1
        assert _difference(slide.read(1, 0, 0, *half(image).shape[:2]), half(image)) < 1
        assert set(slide.associated) == {"label", "macro", "thumbnail"}


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("corner", [(0, 0), (1000, -500)])
def test_zeiss_is_cropped_to_its_bounds(tmp_path, compression, corner):
    with open_slide(write_czi(tmp_path / "slide.czi", IMAGE, compression=compression, corner=corner)) as slide:
        assert slide.format == "OpenSlide zeiss"
        assert slide.mpp == pytest.approx(0.5)
        assert [level.shape for level in slide.levels] == [(256, 320), (128, 160)]
        assert np.array_equal(slide.read(0, 0, 0, 256, 320), IMAGE)
        assert np.array_equal(slide.read(1, 3, 5, 100, 99), half(IMAGE)[3:103, 5:104])
        assert slide.associated["label"]().shape == (60, 40, 3)


@pytest.mark.parametrize(
    ("y", "x", "mpp", "note"),
    [
        ("0,25", "0,25", 0.25, ""),
        ("0.25", None, 0.25, ""),
        ("nonsense", "nonsense", None, "not a number"),
        ("nan", "nan", None, "not a number"),
        ("-0.25", "-0.25", None, "not a number"),
        ("250000", "250000", None, "outside"),
    ],
)
def test_openslide_resolution_in_any_spelling_is_read_or_ignored_with_a_note(tmp_path, monkeypatch, y, x, mpp, note):
    path = write_dicom(tmp_path / "one", (picture(150, 200),), "jpeg 2000")
    stated = {openslide.PROPERTY_NAME_MPP_Y: y, openslide.PROPERTY_NAME_MPP_X: x}
    own = openslide.OpenSlide.properties.fget

    def properties(handle):
        changed = {**own(handle), **stated}
        return {name: value for name, value in changed.items() if value is not None}

    monkeypatch.setattr(openslide.OpenSlide, "properties", property(properties))
    with open_slide(path) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))
        assert bool(slide.notes) == bool(note)
        assert all(note in one for one in slide.notes)
