import pickle

import dask.array as da
import numpy as np
import pytest
import zarr
from PIL import Image
from slide_writers import half, picture

from napari_histoad import open_slide
from napari_histoad.errors import SlideError
from napari_histoad.slide import ArraySlide, pyramid

IMAGE = picture(300, 420)


def test_array_slide_reads_the_pixels_of_arrays():
    slide = ArraySlide([da.from_array(IMAGE, chunks=(100, 100, 3)), half(IMAGE)], "layer", mpp_yx=(0.5, 0.5))
    assert slide.shape == (300, 420)
    assert slide.mpp == 0.5
    assert np.array_equal(slide.read(0, 10, 20, 150, 200), IMAGE[10:160, 20:220])
    assert np.array_equal(slide.read(1, 0, 0, 150, 210), half(IMAGE))
    assert np.array_equal(np.asarray(pyramid(slide)[0]), IMAGE)


def test_array_slide_composites_opacity_on_white():
    rgba = np.dstack([IMAGE, np.zeros((300, 420), np.uint8)])
    rgba[:100, :, 3] = 255
    pixels = ArraySlide([rgba], "layer").read(0, 0, 0, 300, 420)
    assert np.array_equal(pixels[:100], IMAGE[:100])
    assert (pixels[100:] == 255).all()


def test_array_slide_pickles_with_its_pixels():
    slide = ArraySlide([IMAGE], "layer", mpp_yx=(0.5, 0.5), mpp=0.25)
    again = pickle.loads(pickle.dumps(slide))
    assert again.mpp == 0.25
    assert np.array_equal(again.read(0, 5, 5, 50, 50), slide.read(0, 5, 5, 50, 50))


@pytest.mark.parametrize("array", [np.zeros((9, 9)), np.zeros((9, 9, 3), np.uint16), np.zeros((4, 9, 9), np.uint8)])
def test_array_slide_refuses_arrays_that_are_not_8_bit_rgb(array):
    with pytest.raises(SlideError, match="not 8-bit RGB"):
        ArraySlide([array], "layer")


def test_array_slide_reports_an_array_that_cannot_be_read():
    def fail(block):
        raise RuntimeError("the server\nis gone")

    broken = da.from_array(IMAGE, chunks=(100, 100, 3)).map_blocks(fail, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    with pytest.raises(SlideError, match="the server is gone"):
        ArraySlide([broken], "layer").read(0, 0, 0, 10, 10)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_open_slide_reads_png_jpeg_and_other_pictures(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(IMAGE).save(path, dpi=(50800, 50800))
    with open_slide(path) as slide:
        assert slide.shape == (300, 420)
        assert slide.mpp == (pytest.approx(0.5, rel=0.01) if suffix in ("png", "jpg", "bmp") else None)
        assert np.array_equal(slide.read(0, 0, 0, 300, 420), np.asarray(Image.open(path).convert("RGB")))
        again = pickle.loads(pickle.dumps(slide))
        assert again.shape == slide.shape


def test_open_slide_refuses_pictures_that_are_grey_broken_or_too_large(tmp_path, monkeypatch):
    Image.fromarray(IMAGE[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(IMAGE).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    Image.fromarray(IMAGE).save(tmp_path / "huge.png")
    for name, word in [("grey.png", "not RGB but L"), ("cut.png", "cannot be decoded")]:
        with pytest.raises(SlideError, match=word):
            open_slide(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SlideError, match=r"too large.*pyramid"):
        open_slide(tmp_path / "huge.png")


def write_ome_zarr(path, image, *, version, order, unit="micrometer", dtype=np.uint8, planes=1):
    """OME-Zarr of two levels; of several focal planes the middle one is the image and the others are black."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets, part = [], image
    for level in range(2):
        data = np.transpose(part, ["yxc".index(axis) for axis in order if axis in "yxc"]).astype(dtype)
        data = data[tuple(slice(None) if axis in "yxc" else None for axis in order)]
        if "z" in order:
            stack = [data * int(z == planes // 2) for z in range(planes)]
            data = np.concatenate(stack, axis=order.index("z")).astype(dtype)
        chunks = tuple(64 if axis in "yx" else 1 for axis in order)
        group.create_array(str(level), data=data, chunks=chunks)
        scale = [0.25 * 2**level if axis in "yx" else 1.0 for axis in order]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        part = half(part)
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    space = {"type": "space"} | ({} if unit is None else {"unit": unit})
    scales = {"axes": [{"name": a, **kinds.get(a, space)} for a in order], "datasets": datasets, "version": version, "name": "n"}
    if version == "0.4":
        group.attrs["multiscales"] = [scales]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [scales]}
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("order", ["cyx", "yxc", "tczyx"])
def test_open_slide_reads_ome_zarr(tmp_path, version, order):
    path = write_ome_zarr(tmp_path / "s.ome.zarr", IMAGE, version=version, order=order)
    with open_slide(path) as slide:
        assert slide.format == "OME-Zarr"
        assert slide.mpp == pytest.approx(0.25)
        assert slide.properties["OME-Zarr version"] == version
        assert [level.shape for level in slide.levels] == [(300, 420), (150, 210)]
        assert np.array_equal(slide.read(0, 37, 41, 200, 300), IMAGE[37:237, 41:341])
        assert np.array_equal(slide.read(1, 0, 0, 150, 210), half(IMAGE))
        assert np.array_equal(pickle.loads(pickle.dumps(slide)).read(0, 0, 0, 9, 9), IMAGE[:9, :9])


@pytest.mark.parametrize("planes", [2, 3, 5])
def test_ome_zarr_with_focal_planes_is_read_at_the_middle_plane(tmp_path, planes):
    path = write_ome_zarr(tmp_path / "s.zarr", IMAGE, version="0.4", order="czyx", planes=planes)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 37, 41, 200, 300), IMAGE[37:237, 41:341])
        assert np.array_equal(slide.read(1, 0, 0, 150, 210), half(IMAGE))
        note = f"It holds {planes} focal planes: number {planes // 2 + 1}, the middle one, is read."
        assert slide.notes == (note,)
    with open_slide(path, channels=[1]) as grey:
        assert grey.notes == (note,)


@pytest.mark.parametrize(
    ("unit", "words"), [(None, "no unit"), ("pixel", "the unit pixel, not a unit of length"), ("second", "second")]
)
def test_ome_zarr_scale_without_a_unit_of_length_is_ignored_with_a_note(tmp_path, unit, words):
    path = write_ome_zarr(tmp_path / "s.zarr", IMAGE, version="0.5", order="cyx", unit=unit)
    with open_slide(path) as slide:
        assert slide.mpp is None
        (note,) = slide.notes
        assert note.startswith("Its scale of 0.25 has")
        assert words in note


def test_ome_zarr_that_is_not_an_rgb_image_is_refused(tmp_path, map_folder):
    deep = write_ome_zarr(tmp_path / "deep.zarr", IMAGE, version="0.5", order="cyx", dtype=np.uint16)
    with pytest.raises(SlideError, match="3 channels of uint16"):
        open_slide(deep)
    with pytest.raises(SlideError, match="1 channels of float32"):
        open_slide(map_folder)
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(SlideError, match="not an OME-Zarr slide"):
        open_slide(tmp_path / "empty.zarr")


def test_notes_are_kept_when_a_slide_is_pickled_or_given_another_mpp():
    slide = ArraySlide([np.zeros((40, 40, 3), np.uint8)], "layer", mpp_yx=(90.0, 90.0), notes=["Focal plane 2 of 3."])
    assert slide.notes[0] == "Focal plane 2 of 3."
    assert "90" in slide.notes[1]
    assert pickle.loads(pickle.dumps(slide)).notes == slide.notes
    assert slide.with_mpp(0.5).notes == slide.notes
