import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_histoad import open_slide
from napari_histoad.errors import MissingMppError, SettingsError, SlideError


def _picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def _box(image, y, x, h, w):
    """What reading a box must give: the image, white outside."""
    out = np.full((h, w, 3), 255, np.uint8)
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + h, image.shape[0]), min(x + w, image.shape[1])
    if y1 > y0 and x1 > x0:
        out[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
    return out


LOSSLESS = {
    None: {},
    "lzw": {"predictor": True},
    "zlib": {"predictor": True},
    "zstd": {},
    "packbits": {},
    "jpeg2000": {"compressionargs": {"reversible": True}},
    "webp": {"compressionargs": {"lossless": True}},
    "jpegxl": {"compressionargs": {"lossless": True}},
}


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    tile=st.one_of(st.none(), st.tuples(st.sampled_from([16, 48, 64]), st.sampled_from([16, 32, 80]))),
    rows=st.integers(1, 90),
    box=st.tuples(st.integers(-40, 220), st.integers(-40, 220), st.integers(1, 120), st.integers(1, 120)),
    compression=st.sampled_from(list(LOSSLESS)),
    order=st.sampled_from("<>"),
    big=st.booleans(),
    planar=st.booleans(),
)
def test_read_returns_exact_pixels_of_any_box_of_a_lossless_tiff(
    tmp_path, size, tile, rows, box, compression, order, big, planar
):
    image = _picture(*size)
    layout = {"rowsperstrip": rows} if tile is None else {"tile": tile}
    if planar and compression not in ("webp", "jpegxl"):
        data, layout = np.moveaxis(image, 2, 0), layout | {"planarconfig": "separate"}
    else:
        data = image
    path = tmp_path / "slide.tif"
    options = {"photometric": "rgb", "compression": compression, "metadata": None, **LOSSLESS[compression], **layout}
    tifffile.imwrite(path, data, byteorder=order, bigtiff=big, **options)
    with open_slide(path) as slide:
        assert slide.shape == size
        assert np.array_equal(slide.read(0, *box), _box(image, *box))


@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha"])
def test_read_composites_transparent_pixels_on_white(tmp_path, extra):
    rgba = np.random.default_rng(0).integers(0, 256, (90, 70, 4), np.uint8)
    rgba[:20, :, 3] = 0
    rgba[20:40, :, 3] = 255
    if extra == "assocalpha":
        rgba[..., :3] = (rgba[..., :3].astype(int) * rgba[..., 3:] // 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", rgba, tile=(32, 32), photometric="rgb", extrasamples=[extra], metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        pixels = slide.read(0, 0, 0, 90, 70)
    assert (pixels[:20] == 255).all()
    assert np.array_equal(pixels[20:40], rgba[20:40, :, :3])
    opacity = rgba[..., 3:] / 255
    expected = rgba[..., :3] * (opacity if extra == "unassalpha" else 1) + 255 * (1 - opacity)
    assert np.abs(pixels - expected).max() <= 1


def test_read_returns_white_for_tiles_never_scanned(tmp_path):
    path = tmp_path / "sparse.tif"
    grey = np.full((64, 64, 3), 90, np.uint8)
    tiles = iter([grey, None, None, grey])
    tifffile.imwrite(path, tiles, shape=(128, 128, 3), dtype=np.uint8, tile=(64, 64), photometric="rgb", metadata=None)
    with open_slide(path) as slide:
        pixels = slide.read(0, 0, 0, 128, 128)
    assert pixels[:64, :64].max() == 90
    assert pixels[:64, 64:].min() == pixels[64:, :64].min() == 255


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_read_equals_tifffile_for_jpeg_of_any_subsampling(tmp_path, subsampling):
    image = np.asarray(np.add.outer(np.arange(300), np.arange(200))[..., None] % 256 * [1, 0.5, 0.2], np.uint8)
    path = tmp_path / "slide.tif"
    options = {"tile": (64, 64), "compression": "jpeg", "metadata": None}
    tifffile.imwrite(path, image, photometric="ycbcr", subsampling=subsampling, **options)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 300, 200), tifffile.imread(path))


def test_read_equals_tifffile_for_jpeg_tiles(write_tiff):
    image = np.asarray(np.add.outer(np.arange(300), np.arange(200))[..., None] % 256 * [1, 0.5, 0.2], np.uint8)
    path = write_tiff(image, compression="jpeg")
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 300, 200), tifffile.imread(path))


def test_levels_have_exact_ratios(write_tiff):
    with open_slide(write_tiff(_picture(401, 333), levels=3)) as slide:
        assert [level.shape for level in slide.levels] == [(401, 333), (201, 167), (101, 84)]
        for level in slide.levels:
            assert level.shape[0] * level.downsample_yx[0] == pytest.approx(401)
            assert level.shape[1] * level.downsample_yx[1] == pytest.approx(333)


@pytest.mark.parametrize("shape", [(100, 80), (57, 91), (13, 13)])
def test_read_scaled_keeps_mean_and_position(write_tiff, shape):
    image = np.zeros((400, 320, 3), np.uint8)
    image[100:300, 80:240] = 200
    with open_slide(write_tiff(image, levels=2)) as slide:
        small = slide.read_scaled(0, 0, 400, 320, shape).astype(float)
    assert small.mean() == pytest.approx(image.mean(), abs=1)
    rows = small[..., 0].mean(1)
    centre = (rows * (np.arange(shape[0]) + 0.5)).sum() / rows.sum() * 400 / shape[0]
    assert centre == pytest.approx(200, abs=1)


def test_overview_of_a_slide_without_pyramid_is_the_area_mean(write_tiff):
    image = _picture(512, 512)
    with open_slide(write_tiff(image)) as slide:
        blocks = image.reshape(64, 8, 64, 8, 3).mean((1, 3))
        assert np.abs(slide.overview((64, 64)) - blocks).max() <= 1


def test_read_is_thread_safe(write_tiff):
    image = _picture(512, 512)
    with open_slide(write_tiff(image)) as slide, ThreadPoolExecutor(8) as pool:
        corners = [(y, x) for y in range(0, 440, 37) for x in range(0, 440, 37)]
        parts = pool.map(lambda c: slide.read(0, *c, 70, 70), corners)
        assert all(np.array_equal(p, image[y : y + 70, x : x + 70]) for (y, x), p in zip(corners, parts, strict=True))


def test_slides_pickle_as_their_path(write_tiff):
    with open_slide(write_tiff(_picture(64, 64), mpp=None), mpp=0.4) as slide:
        again = pickle.loads(pickle.dumps(slide))
        assert again.mpp == 0.4
        assert np.array_equal(again.read(0, 0, 0, 64, 64), slide.read(0, 0, 0, 64, 64))


def test_close_leaves_no_open_handle(write_tiff):
    path = write_tiff(_picture(128, 128))
    process = psutil.Process()
    open_slide(path).close()
    handles = process.num_handles if psutil.WINDOWS else process.num_fds
    before = handles()
    for _ in range(50):
        open_slide(path).read(0, 0, 0, 128, 128)
    assert handles() <= before + 1


def test_resolution_comes_from_the_file_or_the_user(write_tiff):
    with open_slide(write_tiff(_picture(32, 32), mpp=0.25)) as slide:
        assert slide.mpp == pytest.approx(0.25, rel=1e-3)
    path = write_tiff(_picture(32, 32), mpp=None)
    with open_slide(path) as slide:
        assert slide.mpp is None
        with pytest.raises(MissingMppError, match="--slide-mpp"):
            slide.require_mpp()
    with open_slide(path, mpp=0.5) as slide:
        assert slide.require_mpp() == 0.5


def test_implausible_resolution_in_the_file_is_ignored(write_tiff):
    with open_slide(write_tiff(_picture(32, 32), mpp=350.0)) as slide:
        assert slide.mpp is None
        (note,) = slide.notes
        assert "350" in note
        assert "ignored" in note


@pytest.mark.parametrize("mpp", [0, -1, 0.01, 100, float("nan")])
def test_implausible_resolution_from_the_user_is_refused(write_tiff, mpp):
    with pytest.raises(SettingsError, match="outside"):
        open_slide(write_tiff(_picture(32, 32)), mpp=mpp)


def test_open_slide_refuses_other_files_in_one_line(tmp_path):
    text, empty = tmp_path / "notes.svs", tmp_path / "empty.tif"
    text.write_text("not a slide")
    empty.touch()
    for path, word in [(text, "not a slide"), (empty, "empty"), (tmp_path / "none.tif", "no file"), (tmp_path, "folder")]:
        with pytest.raises(SlideError, match=word) as caught:
            open_slide(path)
        assert "\n" not in str(caught.value)
        assert caught.value.remedy or path is empty


def test_read_refuses_a_level_that_does_not_exist(write_tiff):
    with open_slide(write_tiff(_picture(32, 32))) as slide, pytest.raises(SlideError, match="no level 3"):
        slide.read(3, 0, 0, 1, 1)


def test_open_slide_refuses_grey_and_16_bit_tiffs_with_a_reason(tmp_path):
    path = tmp_path / "grey.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint16), tile=(16, 16))
    with pytest.raises(SlideError, match="16 bits per sample.*--channels"):
        open_slide(path)


@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.0, 3.3])
def test_read_at_shows_the_same_place_at_any_resolution(tmp_path, mpp):
    """A landmark lies where its level-0 coordinates say, whatever the level it is read from."""
    image = np.full((800, 800, 3), 200, np.uint8)
    image[300:460, 400:520] = 20
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tif:
        for step in (1, 2, 4):
            small = image.reshape(800 // step, step, 800 // step, step, 3).mean((1, 3)).astype(np.uint8)
            options = {"resolution": (2e4 / step, 2e4 / step), "resolutionunit": "CENTIMETER", "metadata": None}
            tif.write(small, tile=(64, 64), photometric="rgb", subfiletype=int(step > 1), **options)
    with open_slide(path) as slide:
        side = round(600 * 0.5 / mpp)
        box = slide.read_at(mpp, 100, 100, side, side)
        assert box.shape == (side, side, 3)
        dark = np.argwhere(box[..., 0] < 110) * mpp / 0.5 + 100
        assert np.abs(dark.min(0) - (300, 400)).max() <= 1.2 * mpp / 0.5
        assert np.abs(dark.max(0) + mpp / 0.5 - (460, 520)).max() <= 1.2 * mpp / 0.5


def test_require_mpp_refuses_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "slide.tif"
    options = {"tile": (16, 16), "photometric": "rgb", "resolutionunit": "CENTIMETER", "metadata": None}
    tifffile.imwrite(path, _picture(64, 64), resolution=(2e4, 1e4), **options)
    with open_slide(path) as slide:
        assert slide.file_mpp_yx == pytest.approx((1.0, 0.5))
        with pytest.raises(MissingMppError, match=r"not square \(1 x 0.5"):
            slide.require_mpp()
    with open_slide(path, mpp=0.7) as slide:
        assert slide.require_mpp() == 0.7
    tifffile.imwrite(path, _picture(64, 64), resolution=(2e4, 1.98e4), **options)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.5025, rel=1e-3)


def test_advice_for_a_large_slide_without_a_pyramid_is_to_convert_it(tmp_path):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, shape=(9000, 64, 3), dtype=np.uint8, tile=(256, 256), photometric="rgb", metadata=None)
    with open_slide(path) as slide:
        assert "histoad convert slide.tif" in slide.advice


# -- JPEG tiles in reduced size


def _smooth(h, w, seed=0):
    """A picture as smooth as tissue: JPEG keeps it to a grey level or two."""
    noise = np.random.default_rng(seed).normal(0, 1, (h // 16 + 2, w // 16 + 2, 3))
    big = ndimage.zoom(noise, (16, 16, 1), order=3)[:h, :w]
    return np.clip(160 + 40 * big, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("stored", ["ycbcr", "rgb"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_tiles_decoded_at_reduced_size_look_like_shrunk_ones(tmp_path, stored, factor):
    image = _smooth(515, 770)
    options = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 95}}
    if stored == "rgb":  # as Aperio scanners write them
        options["compressionargs"] |= {"outcolorspace": "rgb"}
        options["photometric"] = "rgb"
    else:
        options |= {"photometric": "ycbcr", "subsampling": (2, 2)}
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(128, 128), metadata=None, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert len(slide.levels) == 1  # what is decoded in reduced size is no level of the file
        whole = slide.read(0, 0, 0, 512, 768)
        side = 256 // factor
        for y, x in ((0, 0), (256, 512), (16.0, 40.0)):
            got = slide.read_scaled(y, x, 256, 256, (side, side)).astype(int)
            cut = whole[round(y) : round(y) + 256, round(x) : round(x) + 256]
            expected = cut.reshape(side, factor, side, factor, 3).mean(axis=(1, 3))
            assert abs(got - expected).mean() < 3, (y, x)
        outside = slide.read_scaled(480, 700, 256, 256, (side, side))
        assert (outside[-1] == 255).all()


def test_read_scaled_prefers_a_level_to_decoding_at_reduced_size(tmp_path):
    fine, coarse = _smooth(512, 512), np.full((128, 128, 3), 90, np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg", "metadata": None}
        tif.write(fine, **options)
        tif.write(coarse, subfiletype=1, **options)
    with open_slide(tmp_path / "a.tif") as slide:
        assert abs(slide.read_scaled(0, 0, 512, 512, (128, 128)).astype(int) - 90).max() <= 1
        half = slide.read_scaled(0, 0, 512, 512, (256, 256)).astype(int)
        assert abs(half - fine.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))).mean() < 4


def test_read_scaled_names_a_damaged_tile_at_reduced_size(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", _smooth(256, 256), tile=(128, 128), photometric="rgb", compression="jpeg", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        offset, count = tif.pages.first.dataoffsets[3], tif.pages.first.databytecounts[3]
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    with open_slide(tmp_path / "a.tif") as slide:
        slide.read_scaled(0, 0, 128, 128, (64, 64))
        with pytest.raises(SlideError, match="row 1, column 1"):
            slide.read_scaled(128, 128, 128, 128, (64, 64))
