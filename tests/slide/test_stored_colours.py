"""Right colours for every way of storing them, or an error with a remedy; compared with independent readers."""

import struct

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from slide_writers import half, picture, write_encoded, write_svs

from napari_histoad import open_slide
from napari_histoad.errors import SlideError
from napari_histoad.jobs import run
from napari_histoad.slide import convert_job

RGB, YCBCR = 2, 6
IMAGE = picture(256, 320)
SAMPLING = {"4:4:4": "444", "4:2:2": "422", "4:2:0": "420"}
MARKS = {
    "no mark": b"",
    "Adobe, RGB": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0",
    "Adobe, YCbCr": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1",
    "JFIF": b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0",
}


def difference(one, other):
    return np.abs(one.astype(int) - other)


def jpeg(tile, stored, mark, sampling="444"):
    """A JPEG of RGB or YCbCr components, with the mark of its colours replaced."""
    data = bytes(imagecodecs.jpeg8_encode(tile, level=95, colorspace="RGB", outcolorspace=stored, subsampling=sampling))
    out, at = data[:2] + MARKS[mark], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        out += b"" if data[at + 1] in (0xE0, 0xEE) else data[at:end]
        at = end
    return out + data[at:]


def check(path, image=IMAGE, worst=3):
    """Compare whole pixels, reduced ones and the copy that ``convert`` makes with the picture that was stored."""
    copy = path.with_name("copy.tif")
    with open_slide(path) as slide:
        pixels = slide.read(0, 0, 0, *slide.shape)
        assert difference(pixels, image).mean() < worst
        for factor in (2, 4, 8):
            small = slide.read_scaled(0, 0, *slide.shape, (slide.shape[0] // factor, slide.shape[1] // factor))
            expected = np.asarray(Image.fromarray(image).reduce(factor))
            assert difference(small, expected).mean() < 2 * worst, factor  # fewer coefficients are a sharper filter
        assert difference(slide.thumbnail(64), np.asarray(Image.fromarray(image).resize((64, 51)))).mean() < 8
        run(convert_job(slide, copy, lossless=True))
    with open_slide(copy) as slide:
        assert np.array_equal(slide.read(0, 0, 0, *slide.shape), pixels)
    return pixels


def by_openslide(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("mark", ["no mark", "JFIF", "Adobe, YCbCr"])
def test_jpeg_tiles_in_ycbcr_have_the_right_colours(tmp_path, sampling, mark):
    path = write_encoded(tmp_path / "a.tif", IMAGE, lambda tile: jpeg(tile, "YCBCR", mark, SAMPLING[sampling]), 7, YCBCR, side=64)
    assert difference(check(path, worst=5), by_openslide(path)).max() <= 4


@pytest.mark.parametrize("mark", ["no mark", "Adobe, RGB", "Adobe, YCbCr"])
def test_jpeg_tiles_in_rgb_by_their_tags_have_the_right_colours(tmp_path, mark):
    path = write_encoded(tmp_path / "a.tif", IMAGE, lambda tile: jpeg(tile, "RGB", mark), 7, RGB, side=64)
    assert difference(check(path), by_openslide(path)).max() <= 1


def test_jpeg_tiles_in_rgb_by_their_marker_have_the_right_colours(tmp_path):
    check(write_encoded(tmp_path / "a.tif", IMAGE, lambda tile: jpeg(tile, "RGB", "Adobe, RGB"), 7, YCBCR, side=64))


def test_jpeg_tiles_in_ycbcr_by_jfif_have_the_right_colours(tmp_path):
    check(write_encoded(tmp_path / "a.tif", IMAGE, lambda tile: jpeg(tile, "YCBCR", "JFIF"), 7, RGB, side=64))


@pytest.mark.parametrize("sampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 32}, {"rowsperstrip": 256}])
def test_jpeg_in_tiles_and_strips_has_the_right_colours(tmp_path, sampling, layout):
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "subsampling": sampling, "compression": "jpeg", "compressionargs": {"level": 95}}
    tifffile.imwrite(path, IMAGE, metadata=None, **options, **layout)
    pixels = check(path, worst=5)
    with Image.open(path) as other:  # libtiff
        assert difference(pixels, np.asarray(other.convert("RGB"))).max() <= 4


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "jpeg", "jpeg2000"])
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 32}])
def test_tiff_colour_planes_have_the_right_colours(tmp_path, compression, layout):
    path, lossy = tmp_path / "a.tif", compression == "jpeg"
    coding = {"level": 95} if lossy else {"reversible": True} if compression == "jpeg2000" else {}
    options = {"photometric": "rgb", "planarconfig": "separate", "compression": compression, "compressionargs": coding}
    tifffile.imwrite(path, np.moveaxis(IMAGE, 2, 0), metadata=None, **options, **layout)
    pixels = check(path)
    assert lossy or np.array_equal(pixels, IMAGE)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("compression", [None, "zlib", "webp"])
def test_tiff_fourth_sample_is_opacity_only_by_its_tags(tmp_path, kind, compression):
    opacity = np.linspace(0, 255, IMAGE.shape[1]).astype(np.uint8)[None].repeat(IMAGE.shape[0], 0)
    share = opacity[..., None] / 255
    stored = (IMAGE * share).astype(np.uint8) if kind == "assocalpha" else IMAGE
    path, options = tmp_path / "a.tif", {"lossless": True} if compression == "webp" else {}
    if compression == "webp":  # it drops colours where nothing is to be seen
        opacity = np.maximum(opacity, 1)
        share = opacity[..., None] / 255
    tifffile.imwrite(
        path,
        np.dstack([stored, opacity]),
        tile=(64, 64),
        photometric="rgb",
        extrasamples=[kind],
        compression=compression,
        compressionargs=options,
        metadata=None,
    )
    expected = IMAGE if kind == "unspecified" else IMAGE * share + 255 * (1 - share)
    with open_slide(path) as slide:
        assert difference(slide.read(0, 0, 0, *slide.shape), expected).max() <= 2


REFUSED = {
    "palette": (IMAGE[..., 0], {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, "PALETTE.*magick"),
    "CMYK": (np.dstack([IMAGE, IMAGE[..., 0]]), {"photometric": "separated"}, "SEPARATED.*magick"),
    "CMYK, 16 bit": (np.dstack([IMAGE] * 2)[..., :4].astype(np.uint16), {"photometric": "separated"}, "SEPARATED.*magick"),
    "CIELab": (IMAGE, {"photometric": "cielab"}, "CIELAB.*magick"),
    "grey": (IMAGE[..., 0], {"photometric": "minisblack"}, "--channels"),
    "white is zero": (IMAGE[..., 0], {"photometric": "miniswhite"}, "--channels"),
    "RGB, 16 bit": (IMAGE.astype(np.uint16) * 257, {"photometric": "rgb"}, "16 bits.*--channels"),
    "grey, 16 bit": (IMAGE[..., 0].astype(np.uint16), {"photometric": "minisblack"}, "16 bits.*--channels"),
    "RGB, float": (IMAGE.astype(np.float32), {"photometric": "rgb"}, "32 bits"),
    "black and white": (IMAGE[..., 0] > 128, {"photometric": "minisblack"}, "bits per sample.*--channels"),
    "five samples": (np.dstack([IMAGE, IMAGE])[..., :5], {"photometric": "rgb"}, "5 samples.*--channels"),
}


@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 32}])
@pytest.mark.parametrize("name", REFUSED)
def test_tiff_that_is_not_8_bit_rgb_is_refused_with_a_remedy(tmp_path, name, layout):
    pixels, options, words = REFUSED[name]
    if pixels.dtype == bool and "tile" in layout:
        pytest.skip("tifffile writes no such tiles")
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, **options, **layout)
    with pytest.raises(SlideError, match=words) as caught:
        open_slide(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)
    if "magick" in words:  # numbers of a palette, or amounts of ink, are no intensities either
        with pytest.raises(SlideError, match=words):
            open_slide(tmp_path / "a.tif", channels=[0])


def test_tiff_of_16_bit_rgb_is_read_by_channels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE.astype(np.uint16) * 257, photometric="rgb", tile=(64, 64), metadata=None)
    with open_slide(tmp_path / "a.tif", channels=[0, 1, 2], white=65535) as slide:
        assert np.array_equal(slide.read(0, 0, 0, *slide.shape), IMAGE)


def test_tiff_of_uncompressed_ycbcr_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", rowsperstrip=256, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages.first.tags["PhotometricInterpretation"].overwrite(YCBCR)
    with pytest.raises(SlideError, match="YCbCr") as caught:
        open_slide(path)
    assert caught.value.remedy


# -- pictures beside the slide


def _label(path, pixels, **options):
    head = "Aperio Image Library v11.2.1\r\n46000x32914"
    about = f"{head} [0,100 46000x32814] (256x256) Q=30|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tif:
        tif.write(IMAGE, tile=(64, 64), photometric="rgb", description=about, metadata=None)
        tif.write(half(half(IMAGE)), photometric="rgb", description=head, metadata=None)
        tif.write(pixels, subfiletype=1, description=head + "\r\nlabel", metadata=None, **options)
    with open_slide(path) as slide:
        return slide.associated["label"]()


SMALL = picture(60, 80, 3)
BESIDE = {
    "RGB": (SMALL, {"photometric": "rgb", "compression": "lzw"}, 0),
    "planes": (np.moveaxis(SMALL, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}, 0),
    "YCbCr 4:2:0": (SMALL, {"photometric": "rgb", "subsampling": (2, 2), "compression": "jpeg", "rowsperstrip": 16}, 6),
    "RGB in JPEG": (SMALL, {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}}, 3),
    "16 bit": (SMALL.astype(np.uint16) * 257, {"photometric": "rgb"}, 0),
    "CMYK": (np.asarray(Image.fromarray(SMALL).convert("CMYK")), {"photometric": "separated"}, 0),
}


@pytest.mark.parametrize("name", BESIDE)
def test_tiff_colour_labels_have_the_right_colours(tmp_path, name):
    pixels, options, worst = BESIDE[name]
    assert difference(_label(tmp_path / "a.svs", pixels, **options), SMALL).mean() <= worst


def test_tiff_grey_labels_have_the_right_brightness(tmp_path):
    grey = SMALL[..., 0]
    expected = np.stack([grey] * 3, -1)
    assert np.array_equal(_label(tmp_path / "a.svs", grey, photometric="minisblack"), expected)
    assert np.array_equal(_label(tmp_path / "b.svs", 255 - grey, photometric="miniswhite"), expected)
    assert np.array_equal(_label(tmp_path / "c.svs", grey.astype(np.uint16) * 257, photometric="minisblack"), expected)
    assert np.array_equal(_label(tmp_path / "d.svs", grey > 128, photometric="minisblack"), (expected > 128) * np.uint8(255))
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256), np.uint16)
    palette = _label(tmp_path / "e.svs", grey, photometric="palette", colormap=colours)
    assert np.array_equal(palette, (colours[:, grey] >> 8).transpose(1, 2, 0))


def test_tiff_transparent_label_is_composited_on_white(tmp_path):
    rgba = np.dstack([SMALL, np.zeros(SMALL.shape[:2], np.uint8)])
    assert (_label(tmp_path / "a.svs", rgba, photometric="rgb", extrasamples=["unassalpha"]) == 255).all()


def test_tiff_jpeg_2000_labels_have_the_right_colours(tmp_path):
    path = write_svs(tmp_path / "a.svs", IMAGE, compression=33003)
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        for name in ("label", "macro", "thumbnail"):
            expected = np.asarray(other.associated_images[name].convert("RGB"))
            assert difference(slide.associated[name](), expected).max() <= 2, name


# -- plain pictures


@pytest.mark.parametrize(
    ("mode", "suffix", "worst"),
    [
        ("RGB", "png", 0),
        ("RGB", "jpg", 3),
        ("CMYK", "jpg", 4),
        ("P", "png", 20),
        ("RGBA", "png", 0),
        ("RGB", "webp", 4),
        ("RGB", "bmp", 0),
    ],
)
def test_pictures_have_the_right_colours(tmp_path, mode, suffix, worst):
    path = tmp_path / f"a.{suffix}"
    options = {"quality": 95} if suffix in ("jpg", "webp") else {}
    Image.fromarray(IMAGE).convert(mode).save(path, **options)
    with open_slide(path) as slide:
        assert difference(slide.read(0, 0, 0, *slide.shape), IMAGE).mean() <= worst


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize(
    ("stored", "mark"), [("YCBCR", "JFIF"), ("YCBCR", "no mark"), ("YCBCR", "Adobe, YCbCr"), ("RGB", "Adobe, RGB")]
)
def test_jpeg_pictures_in_any_colour_space_have_the_right_colours(tmp_path, stored, mark, sampling):
    if stored == "RGB" and sampling != "4:4:4":
        pytest.skip("RGB is not subsampled")
    data = jpeg(np.ascontiguousarray(IMAGE), stored, mark, SAMPLING[sampling])
    (tmp_path / "a.jpg").write_bytes(data)
    with open_slide(tmp_path / "a.jpg") as slide:
        pixels = slide.read(0, 0, 0, *slide.shape)
    assert difference(pixels, IMAGE).mean() < 5
    assert difference(pixels, imagecodecs.jpeg8_decode(data)).max() <= 4


def test_png_of_16_bits_is_scaled_to_8(tmp_path):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(IMAGE.astype(np.uint16) * 257))
    with open_slide(tmp_path / "a.png") as slide:
        assert np.array_equal(slide.read(0, 0, 0, *slide.shape), IMAGE)


def test_png_transparent_pixels_are_white(tmp_path):
    palette = Image.fromarray(IMAGE).quantize(16)
    palette.save(tmp_path / "a.png", transparency=0)
    seen = np.asarray(palette) != 0
    with open_slide(tmp_path / "a.png") as slide:
        pixels = slide.read(0, 0, 0, *slide.shape)
    assert (pixels[~seen] == 255).all()
    assert np.array_equal(pixels[seen], np.asarray(palette.convert("RGB"))[seen])


@pytest.mark.parametrize("mode", ["L", "LA", "1", "I;16"])
def test_grey_pictures_are_refused_with_a_remedy(tmp_path, mode):
    image = Image.fromarray(IMAGE[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(IMAGE).convert(mode)
    image.save(tmp_path / "a.png")
    with pytest.raises(SlideError, match="--channels 0"):
        open_slide(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", channels=[0]) as slide:
        assert slide.shape == IMAGE.shape[:2]


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("planes", [False, True])
def test_ycbcr_pictures_without_jpeg_are_converted(tmp_path, compression, planes):
    expected = np.asarray(Image.fromarray(IMAGE, "YCbCr").convert("RGB"))
    options = {"photometric": "ycbcr", "subsampling": (1, 1), "compression": compression, "tile": (64, 64), "metadata": None}
    options |= {"planarconfig": "separate" if planes else "contig"}
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(IMAGE, 2, 0) if planes else IMAGE, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert difference(slide.read(0, 0, 0, *slide.shape), expected).max() <= 1
