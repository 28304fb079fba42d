"""The format of every vendor, written here, compared with OpenSlide where it reads the file."""

import numpy as np
import openslide
import pytest
import tifffile
from slide_writers import half, picture, write_ome_tiff, write_philips, write_qptiff, write_scn, write_svs

from napari_histoad import open_slide
from napari_histoad.errors import SlideError

IMAGE = picture(420, 532)


def assert_equals_openslide(path, worst=0.0, boxes=25):
    """The same pixels at random places of every level, edges included.

    OpenSlide takes level-0 coordinates: it can only name the pixels of levels that divide evenly.
    """
    rng = np.random.default_rng(0)
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert not slide.format.startswith("OpenSlide"), "this is to compare two readers"
        left = int(reference.properties.get(openslide.PROPERTY_NAME_BOUNDS_X, 0))
        top = int(reference.properties.get(openslide.PROPERTY_NAME_BOUNDS_Y, 0))
        for index, level in enumerate(slide.levels):
            theirs_at = reference.level_downsamples[index]
            for _ in range(boxes):
                h, w = (int(v) for v in rng.integers(1, 150, 2))
                y, x = (int(rng.integers(0, max(1, n - side + 1))) for n, side in zip(level.shape, (h, w), strict=True))
                h, w = min(h, level.shape[0] - y), min(w, level.shape[1] - x)
                corner = (int(x * theirs_at) + left, int(y * theirs_at) + top)
                theirs = np.asarray(reference.read_region(corner, index, (w, h)))
                solid = theirs[..., 3] == 255
                ours = slide.read(index, y, x, h, w)
                difference = np.abs(ours.astype(int) - theirs[..., :3])[solid]
                assert difference.size == 0 or difference.mean() <= worst, (index, y, x, h, w, difference.mean())


@pytest.mark.parametrize("compression", ["jpeg", 33003, 33005, "lzw"])
def test_svs(tmp_path, compression):
    path = write_svs(tmp_path / "slide.svs", IMAGE, compression=compression)
    with open_slide(path) as slide:
        assert slide.format == "Aperio SVS"
        assert slide.mpp == 0.499
        assert [level.shape for level in slide.levels] == [(420, 532), (105, 133)]
        assert set(slide.associated) == {"thumbnail", "label", "macro"}
        assert np.array_equal(slide.associated["label"](), picture(50, 40, 7))
        assert np.abs(slide.read(0, 0, 0, 420, 532).astype(int) - IMAGE).mean() < 3
    assert_equals_openslide(path, worst=0.5 if compression == 33003 else 0)


def test_scn_reads_the_scan_and_not_the_canvas(tmp_path):
    path = write_scn(tmp_path / "slide.scn", IMAGE)
    with open_slide(path) as slide:
        assert slide.format == "Leica SCN"
        assert slide.shape == (420, 532)
        assert slide.mpp == pytest.approx(0.5)
        assert slide.associated["macro"]().shape == (60, 100, 3)
    assert_equals_openslide(path)


def test_philips(tmp_path):
    path = write_philips(tmp_path / "slide.tiff", IMAGE)
    with open_slide(path) as slide:
        assert slide.format == "Philips TIFF"
        assert slide.mpp == pytest.approx(0.25)
        assert len(slide.levels) == 2
        assert set(slide.associated) == {"macro"}
    assert_equals_openslide(path)


def test_qptiff(tmp_path):
    with open_slide(write_qptiff(tmp_path / "slide.qptiff", IMAGE)) as slide:
        assert slide.format == "PerkinElmer QPTIFF"
        assert slide.mpp == pytest.approx(0.5, rel=1e-3)
        assert [level.shape for level in slide.levels] == [(420, 532), (210, 266)]
        assert set(slide.associated) == {"thumbnail", "macro", "label"}
        assert slide.properties["Objective"] == "20x"
        assert np.abs(slide.read(1, 0, 0, 210, 266).astype(int) - half(IMAGE)).mean() < 3


@pytest.mark.parametrize("planar", [False, True])
def test_ome_tiff(tmp_path, planar):
    path = tmp_path / "slide.ome.tif"
    options = {"planarconfig": "contig"}
    image = IMAGE
    if planar:
        with tifffile.TiffWriter(path, ome=True) as tif:
            size = {
                "axes": "SYX",
                "PhysicalSizeX": 250,
                "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 0.25,
                "PhysicalSizeYUnit": "µm",
            }
            shared = {"tile": (64, 64), "photometric": "rgb", "planarconfig": "separate", "compression": "zlib"}
            tif.write(np.moveaxis(image, 2, 0), subifds=1, metadata={"axes": "SYX"} | size, **shared)
            tif.write(np.ascontiguousarray(np.moveaxis(half(image), 2, 0)), subfiletype=1, **shared)
    else:
        write_ome_tiff(path, image, **options)
    with open_slide(path) as slide:
        assert slide.format == "OME-TIFF"
        assert slide.mpp == pytest.approx(0.25)
        assert len(slide.levels) == (2 if planar else 3)
        assert np.array_equal(slide.read(0, 0, 0, 420, 532), image)
        assert np.array_equal(slide.read(1, 3, 5, 100, 99), half(image)[3:103, 5:104])


def test_ome_tiff_of_grey_channels_is_refused_with_their_number(tmp_path):
    path = tmp_path / "four.ome.tif"
    tifffile.imwrite(
        path, np.zeros((4, 64, 64), np.uint8), ome=True, tile=(16, 16), photometric="minisblack", metadata={"axes": "CYX"}
    )
    with pytest.raises(SlideError, match="4 grey channels"):
        open_slide(path)


def test_fluorescence_ndpi_is_refused_and_its_tiles_equal_openslide(data_folder, monkeypatch):
    path = data_folder / "slides/fluorescence-dapi.ndpi"
    with pytest.raises(SlideError, match=r"fluorescence scan \(DAPI.*brightfield"):
        open_slide(path)
    # It is the only NDPI at hand: take it for brightfield, to compare the decoding.
    monkeypatch.setattr("napari_histoad.slide._tiff_layout._NDPI_FLUORESCENCE", 1)
    with open_slide(path) as slide:
        assert slide.format == "Hamamatsu NDPI"
        assert slide.mpp == pytest.approx(0.22818, rel=1e-4)
        assert len(slide.levels) == 4
        assert set(slide.associated) == {"macro", "map"}
    assert_equals_openslide(path, boxes=6)
