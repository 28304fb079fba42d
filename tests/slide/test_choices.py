"""Files with several images of the tissue: which one is read, and the note on it."""

import numpy as np
import openslide
import pytest
import tifffile
from slide_writers import half, picture, write_ndpi, write_scn, write_svs

from napari_histoad import open_slide

PLANES = [picture(240, 320, seed) for seed in range(3)]


def difference(one, other):
    return np.abs(one.astype(int) - other).mean()


def stack(offsets_nm):
    pages = []
    for z, image in zip(offsets_nm, PLANES, strict=False):
        pages += [(image, 20.0, z), (half(half(image)), 5.0, z)]
    return [*pages, (picture(40, 90, 9), -1.0, 0)]


@pytest.mark.parametrize(
    ("offsets", "chosen", "words"),
    [
        ((-2000, 0, 2000), 1, ["3 focal planes", "-2 to 2 µm", "z = 0 µm is read"]),
        ((0, 2000, 4000), 0, ["z = 0 µm is read"]),
        ((-4000, -2000, 0), 2, ["z = 0 µm is read"]),
        ((-5000, 1000, 4000), 1, ["z = 1 µm is read"]),
    ],
)
def test_ndpi_is_read_at_the_focal_plane_nearest_to_zero(tmp_path, offsets, chosen, words):
    path = write_ndpi(tmp_path / "z.ndpi", stack(offsets))
    with open_slide(path) as slide:
        assert slide.format == "Hamamatsu NDPI"
        assert [level.shape for level in slide.levels] == [(240, 320), (60, 80)]
        assert difference(slide.read(0, 0, 0, 240, 320), PLANES[chosen]) < 2
        assert difference(slide.read(1, 0, 0, 60, 80), half(half(PLANES[chosen]))) < 3
        assert slide.mpp == pytest.approx(0.5)
        assert list(slide.associated) == ["macro"]
        (note,) = slide.notes
        assert all(word in note for word in words)
    if 0 in offsets:
        with openslide.OpenSlide(path) as other:
            expected = np.asarray(other.read_region((0, 0), 0, (320, 240)).convert("RGB"))
        assert difference(PLANES[chosen], expected) < 2


def test_ndpi_of_one_plane_has_no_note(tmp_path):
    with open_slide(write_ndpi(tmp_path / "a.ndpi", stack([0]))) as slide:
        assert slide.notes == ()


def write_ome_stack(path, axes="ZYXS", z=(), unit="µm", shape=(3,)):
    """OME-TIFF of ``PLANES`` over and over, with a level, and with positions of z if they are given."""
    stack = np.stack([PLANES[k % 3] for k in range(np.prod(shape))])
    metadata = {"axes": axes} | ({"Plane": {"PositionZ": list(z), "PositionZUnit": [unit] * len(z)}} if z else {})
    options = {"photometric": "rgb", "tile": (64, 64)}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(stack.reshape(*shape, *stack.shape[1:]), subifds=1, metadata=metadata, **options)
        tif.write(np.stack([half(plane) for plane in stack]).reshape(*shape, 120, 160, 3), subfiletype=1, **options)
    return path


def test_ome_tiff_with_time_points_is_read_at_the_first_with_a_note(tmp_path):
    with open_slide(write_ome_stack(tmp_path / "a.ome.tif", "TYXS")) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[0])
        assert slide.notes == ("It holds 3 time points: the first is read.",)


@pytest.mark.parametrize(
    ("z", "unit", "chosen", "words"),
    [
        ((), "µm", 1, "number 2, the middle one"),
        ((-2.0, 0.0, 2.0), "µm", 1, "z = -2 to 2 µm: the one at z = 0 µm"),
        ((0.0, 2.0, 4.0), "µm", 0, "z = 0 to 4 µm: the one at z = 0 µm"),
        ((-0.004, -0.002, 0.0), "mm", 2, "z = -4 to 0 µm: the one at z = 0 µm"),
        ((9000.0, 9002.0, 9004.0), "µm", 1, "number 2, the middle one"),  # of the stage: they do not say where the focus is
        ((-2.0, 0.0, 2.0), "reference frame", 1, "number 2, the middle one"),
        ((0.0, 0.0, 0.0), "µm", 1, "number 2, the middle one"),
    ],
)
def test_ome_tiff_is_read_at_z_zero_or_else_at_the_middle_plane(tmp_path, z, unit, chosen, words):
    with open_slide(write_ome_stack(tmp_path / "a.ome.tif", z=z, unit=unit)) as slide:
        assert [level.shape for level in slide.levels] == [(240, 320), (120, 160)]
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[chosen])
        assert np.array_equal(slide.read(1, 0, 0, 120, 160), half(PLANES[chosen]))
        (note,) = slide.notes
        assert note.startswith("It holds 3 focal planes")
        assert words in note


@pytest.mark.parametrize(("axes", "shape", "picture_number"), [("ZTYXS", (3, 2), 2), ("TZYXS", (2, 3), 1)])
def test_ome_tiff_with_focal_planes_and_time_points_is_read_at_the_first_time(tmp_path, axes, shape, picture_number):
    with open_slide(write_ome_stack(tmp_path / "a.ome.tif", axes, shape=shape)) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[picture_number % 3])
        assert len(slide.notes) == 2


def test_imagej_stack_is_read_at_the_middle_plane(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack(PLANES), imagej=True, metadata={"axes": "ZYXS"})
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[1])
        assert slide.notes == ("It holds 3 focal planes: number 2, the middle one, is read.",)


def test_ome_tiff_with_several_images_names_the_one_that_is_read(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        for name, image in (("small", half(PLANES[0])), ("large", PLANES[1]), ("label", picture(30, 20))):
            tif.write(image, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS", "Name": name})
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[1])
        assert slide.notes == ("It holds 2 pictures: the largest, large, is read.",)
        assert np.array_equal(slide.associated["label"](), picture(30, 20))


def test_tiff_with_pages_of_one_size_is_read_at_the_first_with_a_note(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack(PLANES), photometric="rgb", tile=(64, 64), metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[0])
        assert "3 pictures" in slide.notes[0]


def test_tiff_colour_planes_are_one_image_without_a_note(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(PLANES[0], 2, 0), photometric="rgb", planarconfig="separate", metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[0])
        assert slide.notes == ()


def test_svs_with_focal_planes_has_a_note(tmp_path):
    about = "Aperio Image Library v11.2.1\r\n320x240 [0,0 320x240] (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(tmp_path / "a.svs") as tif:
        options = {"photometric": "rgb", "description": about, "metadata": None}
        tif.write(PLANES[0], tile=(64, 64), **options)
        tif.write(half(half(PLANES[0])), **options)
        for plane in PLANES[1:]:
            tif.write(plane, tile=(64, 64), **options)
        for plane in PLANES:
            tif.write(half(half(plane)), tile=(16, 16), **options)
    with open_slide(tmp_path / "a.svs") as slide:
        assert [level.shape for level in slide.levels] == [(240, 320), (60, 80)]
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[1])
        assert np.array_equal(slide.read(1, 0, 0, 60, 80), half(half(PLANES[1])))
        assert slide.notes == ("It holds 3 focal planes: number 2, the middle one, is read.",)
    with open_slide(write_svs(tmp_path / "b.svs", PLANES[0])) as slide:
        assert slide.notes == ()


@pytest.mark.parametrize(("z", "chosen"), [((0, 2, -2), 0), ((-2, 0, 2), 1), ((-1.5, -0.5, 0.25), 2)])
def test_svs_is_read_at_the_focal_offset_nearest_to_zero(tmp_path, z, chosen):
    with tifffile.TiffWriter(tmp_path / "a.svs") as tif:
        for k, plane in enumerate(PLANES):
            about = f"Aperio Image Library v11.2.1\r\n320x240 [0,0 320x240] (64x64) JPEG/RGB Q=90|MPP = 0.5|OffsetZ = {z[k]}"
            tif.write(plane, tile=(64, 64), photometric="rgb", description=about, metadata=None)
            if k == 0:
                tif.write(half(half(plane)), photometric="rgb", description=about, metadata=None)
    with open_slide(tmp_path / "a.svs") as slide:
        assert np.array_equal(slide.read(0, 0, 0, 240, 320), PLANES[chosen])
        assert f"the one at z = {z[chosen]:g} µm is read" in slide.notes[0]


def test_scn_with_focal_planes_has_a_note(tmp_path):
    path = write_scn(tmp_path / "a.scn", PLANES[0], planes=PLANES[1:])
    with open_slide(path) as slide:
        assert slide.format == "Leica SCN"
        assert [level.shape for level in slide.levels] == [(240, 320), (120, 160)]
        assert difference(slide.read(0, 0, 0, 240, 320), PLANES[1]) < 3
        assert difference(slide.read(1, 0, 0, 120, 160), half(PLANES[1])) < 3
        assert slide.notes == ("It holds 3 focal planes: number 2, the middle one, is read.",)
        assert list(slide.associated) == ["macro"]
    with open_slide(write_scn(tmp_path / "b.scn", PLANES[0])) as slide:
        assert slide.notes == ()


def test_scn_with_several_scans_has_a_note(tmp_path):
    path = write_scn(tmp_path / "a.scn", PLANES[0])
    data = path.read_bytes()
    scan = data[data.index(b'  <image name="scan"') : data.index(b" </collection>")]
    with tifffile.TiffFile(path) as tif:
        xml = tif.pages.first.description.encode()
        pages = [page.asarray() for page in tif.pages]
    more = scan.replace(b'"scan"', b'"scan 2"').replace(b'ifd="1"', b'ifd="3"').replace(b'ifd="2"', b'ifd="4"')
    more = more.replace(b'offsetY="3000', b'offsetY="700000').replace(b'offsetX="5000', b'offsetX="5000')
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for index, page in enumerate([*pages, *pages[1:]]):
            about = xml.replace(b" </collection>", more + b" </collection>") if index == 0 else b""
            tif.write(
                page, tile=(64, 64), photometric="rgb", compression="jpeg", description=about, metadata=None, software="Leica"
            )
    with open_slide(path) as slide:
        assert slide.format == "OpenSlide leica"
        assert "It holds 2 scans: they are read as one canvas." in slide.notes
