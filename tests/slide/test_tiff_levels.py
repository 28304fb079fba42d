"""TIFF levels with missing tiles or rounded sizes."""

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from slide_writers import half, picture, without_tiles, write_ome_tiff, write_svs

from napari_histoad import open_slide
from napari_histoad.tiles import find_tissue


def shrunk(image, step):
    size = (-(-image.shape[1] // step), -(-image.shape[0] // step))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def write_levels(path, image, steps, side=64, padded=False, **options):
    """A pyramid; ``padded`` levels have whole tiles, and state their size so."""
    with tifffile.TiffWriter(path) as tif:
        for step in (1, *steps):
            part = shrunk(image, step)
            if padded and step > 1:
                part = np.pad(part, ((0, -part.shape[0] % side), (0, -part.shape[1] % side), (0, 0)), constant_values=255)
            coding = {"compression": "zlib", **options}
            tif.write(part, tile=(side, side), photometric="rgb", subfiletype=int(step > 1), metadata=None, **coding)
    return path


def difference(one, other):
    return np.abs(one.astype(int) - other)


# -- tiles that a level lacks


@pytest.mark.parametrize("tag", ["TileByteCounts", "TileOffsets"])
@pytest.mark.parametrize("compression", ["jpeg", "lzw", 33003])
def test_tile_missing_in_an_svs_level_is_read_from_the_finer_one(tmp_path, compression, tag):
    image = picture(600, 800)
    path = write_svs(tmp_path / "a.svs", image, compression=compression, side=64)
    with open_slide(path) as slide:
        whole = slide.read(1, 0, 0, *slide.levels[1].shape)
    without_tiles(path, 2, [0, 5], tag)
    with open_slide(path) as slide:
        pixels = slide.read(1, 0, 0, *slide.levels[1].shape)
    assert difference(pixels, whole).mean() < 1
    assert difference(pixels[:64, :64], whole[:64, :64]).mean() < 4
    if tag == "TileByteCounts":
        with openslide.OpenSlide(path) as other:
            expected = np.asarray(other.read_region((0, 0), 1, other.level_dimensions[1]).convert("RGB"))
        assert difference(pixels[:60, :60], expected[:60, :60]).mean() < 4


def test_tile_missing_in_level_0_is_white_at_every_resolution(tmp_path):
    path = write_levels(tmp_path / "a.tif", picture(512, 512), [2, 4, 8])
    without_tiles(path, 0, [0, 1, 8, 9])  # the first 128 x 128 px
    without_tiles(path, 1, [0])
    without_tiles(path, 2, range(4))
    with open_slide(path) as slide:
        assert (slide.read(0, 0, 0, 128, 128) == 255).all()
        assert (slide.read(1, 0, 0, 64, 64) == 255).all()
        assert (slide.read(2, 0, 0, 32, 32) == 255).all()
        assert slide.read(2, 0, 33, 32, 31).max() < 255


def test_tile_missing_in_several_levels_is_read_from_the_next_that_has_it(tmp_path):
    image = picture(512, 640)
    path = write_levels(tmp_path / "a.tif", image, [2, 4, 8])
    for page in (1, 2, 3):
        with tifffile.TiffFile(path) as tif:
            count = len(tif.pages[page].dataoffsets)
        without_tiles(path, page, range(count))
    with open_slide(path) as slide:
        assert len(slide.levels) == 4
        for index, step in enumerate((1, 2, 4, 8)):
            pixels = slide.read(index, 0, 0, *slide.levels[index].shape)
            assert difference(pixels, shrunk(image, step)).max() <= 3, step
        assert difference(slide.thumbnail(80), shrunk(image, 8)).max() <= 3
        assert difference(slide.read_scaled(128, 64, 256, 512, (64, 128)), shrunk(image[128:384, 64:576], 4)).max() <= 3


def test_tile_missing_in_a_level_is_read_at_reduced_size_too(tmp_path):
    image = picture(512, 512)
    path = write_levels(tmp_path / "a.tif", image, [4], compression="jpeg", compressionargs={"level": 95})
    without_tiles(path, 1, [0, 3])
    with open_slide(path) as slide:
        for size in (256, 128, 64, 32, 16):
            small = slide.read_scaled(0, 0, 512, 512, (size, size))
            assert difference(small, shrunk(image, 512 // size)).mean() < 4, size


def test_tile_missing_in_a_much_coarser_level_is_read_in_strips(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_histoad.slide._tiff._STRIP_PX", 50_000)
    image = picture(1024, 1024)
    path = without_tiles(write_levels(tmp_path / "a.tif", image, [16]), 1, [0])
    with open_slide(path) as slide:
        assert difference(slide.read(1, 0, 0, 64, 64), shrunk(image, 16)).max() <= 2


def test_tile_missing_in_planes_and_subifds_is_read_from_the_finer_level(tmp_path):
    image = picture(256, 256)
    with tifffile.TiffWriter(tmp_path / "planes.tif") as tif:
        for part in (image, half(image)):
            options = {"tile": (64, 64), "photometric": "rgb", "planarconfig": "separate", "metadata": None}
            tif.write(np.moveaxis(part, 2, 0), subfiletype=int(part is not image), **options)
    without_tiles(tmp_path / "planes.tif", 1, [4])  # the green of the first tile
    with open_slide(tmp_path / "planes.tif") as slide:
        assert difference(slide.read(1, 0, 0, 128, 128), half(image)).max() <= 2
    path = write_ome_tiff(tmp_path / "a.ome.tif", image)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        counts = tif.series[0].levels[1].keyframe.tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    with open_slide(path) as slide:
        assert difference(slide.read(1, 0, 0, 128, 128), half(image)).max() <= 2


def test_find_tissue_works_where_a_level_lacks_tiles(tmp_path):
    rng = np.random.default_rng(0)
    image = np.full((1024, 1024, 3), 240, np.uint8)
    image[128:896, 128:896] = rng.integers(90, 200, (768, 768, 3)) * [1.0, 0.5, 0.9]
    path = write_levels(tmp_path / "a.tif", image, [4], resolution=(20000, 20000), resolutionunit="CENTIMETER")
    with open_slide(path) as slide:
        whole = find_tissue(slide).mask
    with open_slide(without_tiles(path, 1, [5, 6])) as slide:
        assert np.array_equal(find_tissue(slide).mask, whole)


def test_sparse_pyramid_is_not_searched_for_tiles_that_no_level_has(tmp_path, monkeypatch):
    path = write_levels(tmp_path / "a.tif", picture(1024, 1024), [2, 4, 8, 16])
    for page, tiles in ((0, 256), (1, 64), (2, 16), (3, 4), (4, 1)):
        without_tiles(path, page, range(1 if page == 0 else 0, tiles))
    with open_slide(path) as slide:
        calls = []
        decode = slide._decode
        monkeypatch.setattr(slide, "_decode", lambda *args: (calls.append(args[:3]), decode(*args)))
        corner = slide.read(4, 0, 0, 64, 64)
    assert corner[:4, :4].max() < 255
    assert (corner[5:, 5:] == 255).all()
    assert len(calls) <= 5 * 4


# -- levels whose size is rounded up to whole tiles


@pytest.mark.parametrize("size", [(1000, 1300), (1000, 1000), (3001, 777)])
def test_place_levels_aligns_levels_padded_to_whole_tiles(tmp_path, size):
    image = picture(*size)
    path = write_levels(tmp_path / "a.tif", image, [2, 4, 8, 16], padded=True)
    with open_slide(path) as slide:
        assert [level.shape for level in slide.levels] == [(-(-size[0] // s), -(-size[1] // s)) for s in (1, 2, 4, 8, 16)]
        assert [level.downsample for level in slide.levels[1:]] == pytest.approx([2, 4, 8, 16], rel=2e-3)
        assert slide.notes == ()
        for index, step in enumerate((1, 2, 4, 8, 16)):
            pixels = slide.read(index, 0, 0, *slide.levels[index].shape)
            assert difference(pixels, shrunk(image, step)).mean() < 1.5, step


def test_place_levels_accepts_sizes_rounded_in_any_way(tmp_path):
    image = picture(1003, 1501)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        sizes = [(1003, 1501), (501, 750), (251, 376), (334, 500)[:2], (63, 93)]
        for size in sorted(sizes, reverse=True):
            part = np.asarray(Image.fromarray(image).resize(size[::-1]))
            tif.write(part, tile=(64, 64), photometric="rgb", subfiletype=int(size != sizes[0]), metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert len(slide.levels) == 5
        for level in slide.levels:
            assert level.downsample_yx == (1003 / level.shape[0], 1501 / level.shape[1])


def test_place_levels_leaves_out_a_level_that_does_not_fit_with_a_note(tmp_path):
    image = picture(1000, 1000)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        for size in ((1000, 1000), (500, 500), (250, 260)):
            part = np.asarray(Image.fromarray(image).resize(size[::-1]))
            tif.write(part, tile=(16, 16), photometric="rgb", subfiletype=int(size[0] < 1000), metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert [level.shape for level in slide.levels] == [(1000, 1000), (500, 500)]
        (note,) = slide.notes
        assert "260 x 250 px was left out" in note


@pytest.mark.parametrize("steps", [(4,), (2, 4), (4, 8)])
def test_svs_without_a_thumbnail_keeps_all_its_levels(tmp_path, steps):
    image = picture(240, 320)
    about = "Aperio Image Library v11.2.1\r\n320x240 [0,0 320x240] (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(tmp_path / "a.svs") as tif:
        for step in (1, *steps):
            part = np.ascontiguousarray(image[::step, ::step])
            tif.write(part, tile=(32, 32), photometric="rgb", description=about, metadata=None)
    with open_slide(tmp_path / "a.svs") as slide, openslide.OpenSlide(tmp_path / "a.svs") as other:
        assert [level.shape[::-1] for level in slide.levels] == list(other.level_dimensions)
        assert slide.associated == {}
        for number, step in enumerate((1, *steps)):
            assert np.array_equal(slide.read(number, 0, 0, *slide.levels[number].shape), image[::step, ::step])
