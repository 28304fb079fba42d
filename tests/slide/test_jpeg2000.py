"""JPEG 2000 tiles in all colour spaces, compared with OpenSlide or the encoded image."""

import io

import imagecodecs
import numpy as np
import openslide
import pytest
from PIL import Image
from slide_writers import picture, subsampled_jpeg2000, write_encoded

from napari_histoad import open_slide
from napari_histoad.errors import SlideError

APERIO = "Aperio Image Library v11.2.1\r\n300x200 [0,0 300x200] (64x64) J2K/YUV16 Q=30|AppMag = 20|MPP = 0.5"
RGB, YCBCR = 2, 6


def read(path):
    with open_slide(path) as slide:
        return slide.read(0, 0, 0, *slide.shape)


def by_openslide(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def difference(one, other):
    return np.abs(one.astype(int) - other)


def in_ycbcr(tile):
    return np.asarray(Image.fromarray(tile).convert("YCbCr"))


def whole(tile, *, ycbcr=False, transformed=False, reversible=True, form="j2k"):
    """A codestream whose components all have one size; ``transformed`` adds the code's own colour transform."""
    planes = in_ycbcr(tile) if ycbcr else tile
    level = {} if reversible else {"level": 45}
    return bytes(imagecodecs.jpeg2k_encode(planes, codecformat=form, mct=transformed, reversible=reversible, **level))


STEPS = {"4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1), "4:1:1": (1, 4), "4:1:0": (4, 4)}


@pytest.mark.parametrize("sampling", STEPS)
@pytest.mark.parametrize("compression", [33003, 33005])
def test_codestream_with_subsampling_decodes_as_in_openslide(tmp_path, compression, sampling):
    image, step = picture(200, 300), STEPS[sampling]
    path = write_encoded(
        tmp_path / "a.svs",
        image,
        lambda tile: subsampled_jpeg2000(tile, step, ycbcr=compression == 33003),
        compression,
        YCBCR if compression == 33003 else RGB,
        description=APERIO,
    )
    pixels = read(path)
    assert difference(pixels, by_openslide(path)).max() <= 2
    assert difference(pixels, image).mean() < 6  # and OpenSlide's is the picture


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("transformed", [True, False])
@pytest.mark.parametrize("compression", [33003, 33005])
def test_aperio_jpeg_2000_tiles_decode_as_in_openslide(tmp_path, compression, transformed, reversible):
    image = picture(200, 300)
    options = {"ycbcr": compression == 33003, "transformed": transformed, "reversible": reversible}
    photometric = YCBCR if compression == 33003 else RGB
    path = write_encoded(
        tmp_path / "a.svs", image, lambda tile: whole(tile, **options), compression, photometric, description=APERIO
    )
    pixels = read(path)
    assert difference(pixels, by_openslide(path)).max() <= 2
    assert difference(pixels, image).mean() < 3


@pytest.mark.parametrize("compression", [33004, 34712])
@pytest.mark.parametrize("photometric", [RGB, YCBCR])
@pytest.mark.parametrize("stored", ["plain", "transformed", "lossy", "jp2", *STEPS])
def test_codestream_decodes_to_the_encoded_image(tmp_path, compression, photometric, stored):
    """Of these OpenSlide reads none: Pillow decodes the first tile by itself."""
    image = picture(200, 300)

    def encode(tile):
        if stored in STEPS:
            return subsampled_jpeg2000(tile, STEPS[stored])
        if stored == "plain":
            return whole(tile, ycbcr=photometric == YCBCR)
        return whole(tile, transformed=True, reversible=stored != "lossy", form="jp2" if stored == "jp2" else "j2k")

    pixels = read(write_encoded(tmp_path / "a.tif", image, encode, compression, photometric))
    assert difference(pixels, image).mean() < (6 if stored in STEPS else 2)
    if stored != "plain":
        with Image.open(io.BytesIO(encode(np.ascontiguousarray(image[:64, :64])))) as first:
            assert difference(pixels[:64, :64], np.asarray(first.convert("RGB"))).max() <= 2


def test_codestream_uses_the_colour_space_of_the_file_around_it(tmp_path):
    image = picture(100, 100)

    def sycc(tile):
        data = bytearray(whole(tile, ycbcr=True, form="jp2"))
        at = data.index(b"colr\x01") + 7
        data[at : at + 4] = (18).to_bytes(4, "big")
        return bytes(data)

    assert difference(read(write_encoded(tmp_path / "a.tif", image, sycc, 34712, RGB)), image).mean() < 2


@pytest.mark.parametrize("sampling", ["4:2:2", "4:2:0"])
def test_codestream_of_odd_size_has_aligned_components(tmp_path, sampling):
    image = picture(64, 64)
    tile = np.ascontiguousarray(image[:63, :61])
    path = write_encoded(tmp_path / "a.tif", image, lambda _: subsampled_jpeg2000(tile, STEPS[sampling]), 34712, YCBCR)
    with open_slide(path) as slide:
        pixels = slide.read(0, 0, 0, 63, 61)
    assert difference(pixels, tile).mean() < 4


def test_codestream_of_odd_size_that_no_decoder_supports_is_refused(tmp_path):
    tile = picture(63, 61)
    path = write_encoded(tmp_path / "a.tif", picture(64, 64), lambda _: subsampled_jpeg2000(tile, (1, 4)), 34712, YCBCR)
    with open_slide(path) as slide, pytest.raises(SlideError, match="subsampled components of 63 x 61 px"):
        slide.read(0, 0, 0, 63, 61)


@pytest.mark.parametrize("data", [b"", b"\xff\x4f\xff\x51", b"nothing of the kind" * 9, "cut", "grey", "16 bit"])
def test_read_names_a_tile_that_is_not_jpeg_2000(tmp_path, data):
    tile = picture(64, 64)
    data = {
        "cut": whole(tile)[:60],
        "grey": whole(tile[..., 0]),
        "16 bit": bytes(imagecodecs.jpeg2k_encode(tile.astype(np.uint16) * 200, codecformat="j2k")),
    }.get(data, data)
    path = write_encoded(tmp_path / "a.tif", tile, lambda _: data or b"\0", 34712, RGB)
    with open_slide(path) as slide, pytest.raises(SlideError, match="row 0, column 0"):
        slide.read(0, 0, 0, 64, 64)
