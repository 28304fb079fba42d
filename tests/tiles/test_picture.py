"""Tiles as picture files of many programs."""

import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_histoad.errors import SettingsError
from napari_histoad.tiles._picture import picture_size, read_picture

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 48, 3), np.uint8)
GREY = RGB[..., 0]
HALF = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
HALF[:20] = 0
WHITE_TOP = np.where(np.arange(40)[:, None, None] < 20, np.uint8(255), RGB)


def _save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd"},
        {"compression": "lzw", "predictor": True},
        {"compression": "deflate"},
        {"planarconfig": "separate"},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"tile": (16, 16)},
    ],
)
def test_read_picture_reads_rgb_tiffs_of_every_compression(tmp_path, options):
    pixels = np.moveaxis(RGB, 2, 0) if "planarconfig" in options else RGB
    tifffile.imwrite(tmp_path / "t.tif", pixels, photometric="rgb", **options)
    assert np.array_equal(read_picture(tmp_path / "t.tif"), RGB)
    assert picture_size(tmp_path / "t.tif") == (40, 48)


@pytest.mark.parametrize("name", ["t.png", "T.PNG", "t.bmp", "t.TIF"])
def test_read_picture_keeps_pixels_of_lossless_formats(tmp_path, name):
    assert np.array_equal(read_picture(_save(tmp_path / name, Image.fromarray(RGB))), RGB)


def test_read_picture_converts_grey_to_rgb(tmp_path):
    expected = np.repeat(GREY[..., None], 3, 2)
    assert np.array_equal(read_picture(_save(tmp_path / "g.png", Image.fromarray(GREY))), expected)
    for name, photometric, pixels in (("b", "minisblack", GREY), ("w", "miniswhite", 255 - GREY)):
        for compression in (None, "zstd"):
            path = tmp_path / f"{name}{compression}.tif"
            tifffile.imwrite(path, pixels, photometric=photometric, compression=compression)
            assert np.array_equal(read_picture(path), expected)
    bits = GREY > 127
    assert np.array_equal(read_picture(_save(tmp_path / "1.png", Image.fromarray(bits)))[..., 0], bits * np.uint8(255))


def test_read_picture_makes_transparent_pixels_white(tmp_path):
    paths = [
        _save(tmp_path / "rgba.png", Image.fromarray(HALF)),
        _save(tmp_path / "rgba.webp", Image.fromarray(HALF), lossless=True),
        _save(tmp_path / "rgba.tif", Image.fromarray(HALF)),
    ]
    for compression in ("zstd", "deflate"):
        paths.append(tmp_path / f"a{compression}.tif")
        tifffile.imwrite(paths[-1], HALF, photometric="rgb", extrasamples=["unassalpha"], compression=compression)
    for path in paths:
        assert np.array_equal(read_picture(path), WHITE_TOP), path.name
    grey = np.dstack([HALF[..., 0], HALF[..., 3]])
    assert np.array_equal(read_picture(_save(tmp_path / "la.png", Image.fromarray(grey, "LA")))[:20], WHITE_TOP[:20])


def test_read_picture_makes_transparent_colours_white(tmp_path):
    palette = Image.fromarray(HALF).quantize(64)
    assert (read_picture(_save(tmp_path / "pa.png", palette))[:20] == 255).all()
    index = Image.fromarray(np.repeat([[0], [1]], 20, 0).repeat(48, 1).astype(np.uint8), "P")
    index.putpalette([0, 0, 0, 9, 8, 7])
    assert read_picture(_save(tmp_path / "p.png", index, transparency=0))[[0, 39], 0].tolist() == [[255] * 3, [9, 8, 7]]
    black = RGB.copy()
    black[:20] = 0
    black[20:] |= 1
    keyed = _save(tmp_path / "key.png", Image.fromarray(black), transparency=(0, 0, 0))
    assert np.array_equal(read_picture(keyed)[20:], black[20:])
    assert (read_picture(keyed)[:20] == 255).all()


def test_read_picture_does_not_multiply_associated_alpha_twice(tmp_path):
    pixels = np.full((16, 16, 4), 100, np.uint8)
    pixels[..., 3] = 128
    for compression in (None, "zstd"):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"], compression=compression)
        assert np.abs(read_picture(tmp_path / "a.tif").astype(int) - (100 + 127)).max() <= 1


def test_read_picture_converts_cmyk_and_ycbcr(tmp_path):
    smooth = np.full((40, 48, 3), (220, 150, 190), np.uint8)
    for name, options in (("c.jpg", {}), ("c.tif", {})):
        read = read_picture(_save(tmp_path / name, Image.fromarray(smooth).convert("CMYK"), **options))
        assert np.abs(read.astype(int) - smooth).max() <= 4
    assert np.abs(read_picture(_save(tmp_path / "y.jpg", Image.fromarray(smooth), quality=95)).astype(int) - smooth).max() <= 4
    tifffile.imwrite(tmp_path / "j.tif", smooth, photometric="rgb", compression="jpeg2000")
    assert np.abs(read_picture(tmp_path / "j.tif").astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("name", ["t.jpg", "t.png", "t.tif"])
def test_read_picture_applies_the_exif_orientation(tmp_path, name):
    exif = Image.Exif()
    exif[274] = 6
    image = np.full((40, 48, 3), 200, np.uint8)
    image[:8] = 0
    path = _save(tmp_path / name, Image.fromarray(image), exif=exif)
    read = read_picture(path)
    assert read.shape == (48, 40, 3)
    assert picture_size(path) == (48, 40)
    assert read[:, -4:].mean() < 10 < 150 < read[:, :20].mean()


@pytest.mark.parametrize("depth", [np.uint16, np.int16, np.int8, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("colour", [False, True])
def test_read_picture_refuses_other_depths_without_a_stated_range(tmp_path, depth, colour):
    pixels = (RGB if colour else GREY).astype(depth)
    kind = "rgb" if colour else "minisblack"
    tifffile.imwrite(tmp_path / "d.tif", pixels, photometric=kind)
    for reading in (read_picture, picture_size):
        with pytest.raises(SettingsError, match="which value is white is unknown.*8 bits"):
            reading(tmp_path / "d.tif")


def test_read_picture_scales_a_stated_range_without_clipping(tmp_path):
    pixels = RGB.astype(np.uint16) * 16  # of a 12-bit camera
    stated = [(281, "H", 3, (4080, 4080, 4080), True)]
    tifffile.imwrite(tmp_path / "t.tif", pixels, photometric="rgb", extratags=stated)
    assert np.array_equal(read_picture(tmp_path / "t.tif"), RGB)
    tifffile.imwrite(tmp_path / "t.tif", pixels * 2, photometric="rgb", extratags=stated)
    with pytest.raises(SettingsError, match="outside 0 to 4080"):
        read_picture(tmp_path / "t.tif")


def test_read_picture_refuses_16_bit_png(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "g.png")
    with pytest.raises(SettingsError, match="more than 8 bits"):
        read_picture(tmp_path / "g.png")
    imagecodecs = pytest.importorskip("imagecodecs")
    (tmp_path / "c.png").write_bytes(imagecodecs.png_encode(RGB.astype(np.uint16) * 257))
    with pytest.raises(SettingsError, match="more than 8 bits"):
        read_picture(tmp_path / "c.png")


@pytest.mark.parametrize("name", ["m.tif", "m.webp", "m.png"])
def test_read_picture_refuses_several_pictures_in_one_file(tmp_path, name):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    path = _save(tmp_path / name, first, save_all=True, append_images=[second])
    for reading in (read_picture, picture_size):
        with pytest.raises(SettingsError, match="holds 2 pictures"):
            reading(path)


def test_read_picture_refuses_decompression_bombs_without_a_warning(tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "b.png")
    Image.new("1", (9500, 9500)).save(tmp_path / "w.png")  # Pillow only warns of these
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("b.png", "w.png"):
            for reading in (read_picture, picture_size):
                with pytest.raises(SettingsError, match="more than 64 million pixels"):
                    reading(tmp_path / name)


def test_read_picture_names_damaged_files(tmp_path):
    good = {
        name: _save(tmp_path / name, Image.fromarray(RGB)).read_bytes() for name in ("a.png", "a.jpg", "a.tif", "a.webp", "a.bmp")
    }
    for name, data in good.items():
        for cut in (data[: len(data) // 2], data[:20], b"", b"\0\5\x16\7" + bytes(500), data[:8] + b"\xff" * (len(data) - 8)):
            path = tmp_path / f"cut-{name}"
            path.write_bytes(cut)
            with pytest.raises(SettingsError, match=f"cut-{name}") as caught:
                read_picture(path)
            assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="no such file"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(SettingsError, match=r"dir.png cannot be read"):
        read_picture(tmp_path / "dir.png")
