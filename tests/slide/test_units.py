"""0.5 µm per pixel in every spelling that programs use."""

import re

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from slide_writers import picture

from napari_histoad import open_slide
from napari_histoad.slide._units import length_um, size_um, unit_um

IMAGE = picture(64, 64)
TILED = {"tile": (32, 32), "photometric": "rgb"}


@pytest.mark.parametrize(
    ("um", "spellings"),
    [
        (
            1,
            ["\u00b5m", "\u03bcm", "um", "u", "micron", "Microns", "micrometer", "MICROMETRES", "\\u00B5m", "\\u03BCm", "\\xb5m"],
        ),
        (1, [" um ", "\u00c2\u00b5m", "µ", "mcm", "um."]),
        (1e-3, ["nm", "nanometer", "Nanometres"]),
        (1e-4, ["Å", "\u212b", "\u00c5", "angstrom", "Angstroms", "ångström"]),
        (1e-6, ["pm", "picometer"]),
        (1e3, ["mm", "millimeter", "millimetres"]),
        (1e4, ["cm", "centimeter"]),
        (1e5, ["dm"]),
        (1e6, ["m", "meter", "metre", "meters"]),
        (1e7, ["dam"]),
        (1e9, ["km"]),
        (1e12, ["Mm", "megameter"]),
        (25400, ["in", "inch", "Inches", '"']),
        (25.4, ["mil", "mils", "thou"]),
        (25400 / 12, ["li"]),
        (25400 / 72, ["pt"]),
        (304800, ["ft", "foot", "feet"]),
        (914400, ["yd", "yard"]),
        (None, ["", None, "pixel", "pixels", "reference frame", "second", "xm", "µ m s", "1", "none"]),
    ],
)
def test_unit_um_knows_all_spellings(um, spellings):
    for spelling in spellings:
        assert unit_um(spelling) == (None if um is None else pytest.approx(um)), spelling


@pytest.mark.parametrize("text", ["0.5", "0,5", " .5 ", "0,5000", "5e-1", "500 nm", "0.5 um", "0,0005mm", 0.5, "0.5 µm\r\n"])
def test_length_um_reads_decimal_comma_and_unit(text):
    assert length_um(text) == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "0.5 pixel", None, "0.5.5", "1e999"])
def test_length_um_returns_none_for_other_texts(text):
    assert length_um(text) is None


def test_size_um_takes_a_missing_side_as_equal_to_the_other():
    assert size_um(None, 0.5) == size_um(0.5, None) == (0.5, 0.5)
    assert size_um(None, None) is None


def stated_by(path):
    with open_slide(path) as slide:
        return None if slide.file_mpp_yx is None else pytest.approx(slide.file_mpp_yx, rel=1e-6)


OME = {
    "greek mu": ('PhysicalSizeX="0.5" PhysicalSizeXUnit="μm" PhysicalSizeY="0.5" PhysicalSizeYUnit="μm"', 0.5),
    "no unit": ('PhysicalSizeX="0.5" PhysicalSizeY="0.5"', 0.5),
    "comma": ('PhysicalSizeX="0,5" PhysicalSizeY="0,5"', 0.5),
    "entity": ('PhysicalSizeX="0.5" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.5" PhysicalSizeYUnit="&#xb5;m"', 0.5),
    "x only": ('PhysicalSizeX="0.5" PhysicalSizeXUnit="µm"', 0.5),
    "mixed": ('PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeY="500" PhysicalSizeYUnit="nm"', 0.5),
    "in": ('PhysicalSizeX="1.968503937e-5" PhysicalSizeXUnit="in" PhysicalSizeY="1.968503937e-5" PhysicalSizeYUnit="in"', 0.5),
    "Å": ('PhysicalSizeX="5000" PhysicalSizeXUnit="Å" PhysicalSizeY="5000" PhysicalSizeYUnit="Å"', 0.5),
    "mil": ('PhysicalSizeX="0.01968503937" PhysicalSizeXUnit="mil" PhysicalSizeY="0.01968503937" PhysicalSizeYUnit="mil"', 0.5),
    "m": ('PhysicalSizeX="5e-7" PhysicalSizeXUnit="m" PhysicalSizeY="5E-7" PhysicalSizeYUnit="m"', 0.5),
    "pixel": ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', None),
    "frame": ('PhysicalSizeX=".5" PhysicalSizeXUnit="reference frame" PhysicalSizeYUnit="reference frame"', None),
    "zero": ('PhysicalSizeX="0" PhysicalSizeY="0"', None),
    "absurd": ('PhysicalSizeX="500" PhysicalSizeY="500"', None),
}


@pytest.mark.parametrize("name", OME)
def test_ome_tiff_mpp_is_read_in_any_unit(tmp_path, name):
    attributes, mpp = OME[name]
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, IMAGE, ome=True, metadata={"axes": "YXS", "PhysicalSizeX": 7, "PhysicalSizeY": 7}, **TILED)
    xml = re.sub(r'PhysicalSizeX="7.*?(?=[/>]| [A-OQ-Z])', attributes + " ", tifffile.tiffcomment(path))
    xml = re.sub(r' PhysicalSizeY="7(\.0)?"', "", xml)
    assert "7" not in re.findall(r'PhysicalSize[XY]="(.)', xml)
    tifffile.tiffcomment(path, xml.encode())
    assert stated_by(path) == (None if mpp is None else (mpp, mpp))


@pytest.mark.parametrize(
    ("unit", "per_px"),
    [("um", 0.5), ("micron", 0.5), ("\\u00B5m", 0.5), ("mm", 0.0005), ("nm", 500), ("inch", 0.5 / 25400), ("cm", 0.5e-4)],
)
@pytest.mark.parametrize("tag", [None, "INCH", "CENTIMETER"])
def test_imagej_mpp_uses_the_unit_in_the_description(tmp_path, unit, per_px, tag):
    options = {} if tag is None else {"resolutionunit": tag}
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, imagej=True, resolution=(1 / per_px,) * 2, metadata={"unit": unit}, **options)
    assert stated_by(tmp_path / "a.tif") == (pytest.approx(0.5, rel=1e-3),) * 2


def test_imagej_mpp_is_none_if_the_unit_is_pixels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, imagej=True, resolution=(2, 2), metadata={"unit": "pixel"})
    assert stated_by(tmp_path / "a.tif") is None


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp_yx"),
    [
        ((20000, 20000), "CENTIMETER", (0.5, 0.5)),
        ((50800, 50800), "INCH", (0.5, 0.5)),
        ((2000, 2000), 4, (0.5, 0.5)),
        ((2, 2), 5, (0.5, 0.5)),
        ((2, 2), 1, None),
        ((20000, 10000), "CENTIMETER", (1.0, 0.5)),
        ((72, 72), "INCH", None),
        (((0, 1), (0, 1)), "CENTIMETER", None),
        (((4294967295, 1), (4294967295, 1)), "CENTIMETER", None),
    ],
)
def test_tiff_mpp_is_read_from_resolution_tags_in_any_unit(tmp_path, resolution, unit, mpp_yx):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, resolution=resolution, resolutionunit=unit, metadata=None, **TILED)
    assert stated_by(tmp_path / "a.tif") == mpp_yx


def test_tiff_mpp_without_a_unit_tag_is_per_inch(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(50800, 50800), resolutionunit="INCH", metadata=None, **TILED)
    data = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages.first.tags["ResolutionUnit"].offset
    path.write_bytes(data[:tag] + (65000).to_bytes(2, "little") + data[tag + 2 :])
    assert stated_by(path) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("extra", "mpp"),
    [
        ("AppMag = 20|MPP = 0.5", 0.5),
        ("AppMag = 20|MPP = 0,5000", 0.5),
        ("AppMag = 20|mpp = 0.5", 0.5),
        ("AppMag = 20|MPP = 0.5 um", 0.5),
        ("AppMag = 20|MPP = 0.5 µm/pixel", 0.5),
        ("AppMag = 20|MPP = 500 nm per px", 0.5),
        ("AppMag=20|MPP=0.5|Filename=a|b", 0.5),
        ("AppMag = 20|MPP = 0.5\r\n", 0.5),
        ("AppMag = 20|MPP = |Left = 3", None),
        ("AppMag = 20|MPP = 0", None),
        ("AppMag = 20|MPP = 499", None),
        ("AppMag = 20", None),
    ],
)
def test_svs_mpp_is_read_in_any_spelling(tmp_path, extra, mpp):
    about = f"Aperio Image Library v11\r\n64x64 [0,0 64x64] (32x32) JPEG/RGB Q=90|{extra}"
    tifffile.imwrite(tmp_path / "a.svs", IMAGE, description=about.encode(), metadata=None, **TILED)
    assert stated_by(tmp_path / "a.svs") == (None if mpp is None else (mpp, mpp))


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_picture_mpp_is_read_from_dots_per_inch(tmp_path, kind):
    Image.fromarray(IMAGE).save(tmp_path / f"a.{kind}", dpi=(50800, 50800))
    assert stated_by(tmp_path / f"a.{kind}") == (0.5, 0.5)


@pytest.mark.parametrize(
    ("unit", "scale", "mpp"),
    [
        *((unit, 0.5, 0.5) for unit in ("micrometer", "µm", "μm", "um", "microns", "Micrometer")),
        *(("millimeter", 0.0005, 0.5), ("angstrom", 5000, 0.5), ("inch", 0.5 / 25400, 0.5), ("nanometre", 500, 0.5)),
        *((None, 0.5, None), ("second", 0.5, None), ("micrometer", 0, None), ("meter", 0.5, None)),
    ],
)
def test_ome_zarr_mpp_is_read_in_any_unit(tmp_path, unit, scale, mpp):
    group = zarr.create_group(tmp_path / "a.ome.zarr", zarr_format=3)
    group.create_array("0", data=np.moveaxis(IMAGE, 2, 0), chunks=(3, 32, 32))
    space = [{"name": n, "type": "space", **({"unit": unit} if unit else {})} for n in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, scale, scale]}]}]
    scales = [{"axes": [{"name": "c", "type": "channel"}, *space], "datasets": datasets}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": scales}
    assert stated_by(tmp_path / "a.ome.zarr") == (None if mpp is None else (mpp, mpp))
