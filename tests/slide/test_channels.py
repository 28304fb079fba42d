"""Grey, 16-bit and fluorescence images: refused with a remedy, readable when channels are chosen."""

import pickle

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from slide_writers import half, picture, write_mrxs, write_svs
from typer.testing import CliRunner

from napari_histoad import open_slide
from napari_histoad.cli._app import app
from napari_histoad.errors import SettingsError, SlideError


def _grey16(h, w, most=4000):
    """A 12-bit camera's picture of a bright background with darker spots."""
    y, x = np.mgrid[:h, :w]
    return (most - 2000 * ((y // 16 + x // 16) % 3 == 0)).astype(np.uint16)


def test_open_slide_refuses_a_grey_16_bit_tiff_and_names_channels_as_the_remedy(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", _grey16(90, 70), tile=(32, 32))
    with pytest.raises(SlideError, match="--channels 0"):
        open_slide(tmp_path / "a.tif")


def test_channel_slide_shows_one_channel_as_grey_scaled_by_the_bit_depth(tmp_path):
    image = _grey16(90, 70)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), resolution=(20000, 20000), resolutionunit="CENTIMETER")
    with open_slide(tmp_path / "a.tif", channels=[0]) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert slide.properties["White"] == "4095"
        pixels = slide.read(0, 5, 7, 64, 60)
    expected = np.round(image[5:69, 7:67] * (255 / 4095)).astype(np.uint8)
    assert np.array_equal(pixels, np.stack([expected] * 3, axis=-1))


def test_channel_slide_inverts_fluorescence(tmp_path):
    stack = np.zeros((4, 80, 100), np.uint16)
    stack[1, 10:20, 10:20] = 60000
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "CYX", "PhysicalSizeX": 0.4, "PhysicalSizeY": 0.4})
    with open_slide(tmp_path / "a.ome.tif", channels=[1]) as slide:
        pixels = slide.read(0, 0, 0, 80, 100)
        assert slide.mpp == pytest.approx(0.4)
    assert (pixels[30:] == 255).all()
    assert (pixels[12, 12] == round(255 - 60000 * 255 / 65535)).all()


def test_channel_slide_shows_three_channels_as_rgb_in_the_given_order(tmp_path):
    stack = np.stack([np.full((40, 50), v, np.uint8) for v in (200, 150, 250, 100)])
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    with open_slide(tmp_path / "a.tif", channels=[2, 0, 3]) as slide:
        assert slide.read(0, 0, 0, 1, 1).tolist() == [[[250, 200, 100]]]


def test_channel_slide_uses_the_given_white(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((40, 50), 900, np.uint16))
    with open_slide(tmp_path / "a.tif", channels=[0], white=1000) as slide:
        assert (slide.read(0, 0, 0, 4, 4) == round(900 * 255 / 1000)).all()


def test_channel_slide_uses_the_bit_depth_of_ome_metadata(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.full((40, 50), 900, np.uint16), metadata={"axes": "YX", "SignificantBits": 14})
    with open_slide(tmp_path / "a.ome.tif", channels=[0]) as slide:
        assert slide.properties["White"] == str(2**14 - 1)


def test_channel_slide_reads_ome_zarr_and_pictures(tmp_path):
    group = zarr.create_group(tmp_path / "a.ome.zarr", zarr_format=3)
    data = np.stack([np.full((64, 80), v, np.uint16) for v in (10000, 60000)])
    group.create_array("0", data=data, chunks=(1, 32, 32))
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    with pytest.raises(SlideError, match="2 channels of uint16"):
        open_slide(tmp_path / "a.ome.zarr")
    with open_slide(tmp_path / "a.ome.zarr", channels=[1]) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert (slide.read(0, 0, 0, 9, 9) == round(60000 * 255 / 65535)).all()
    Image.fromarray(np.full((30, 40), 180, np.uint8)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", channels=[0]) as slide:
        assert (slide.read(0, 0, 0, 30, 40) == 180).all()


def test_channel_slide_keeps_its_channels_when_pickled_or_given_another_mpp(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", _grey16(90, 70))
    with open_slide(tmp_path / "a.tif", 0.5, channels=[0], white=5000) as slide:
        copy = pickle.loads(pickle.dumps(slide))
        assert copy.mpp == 0.5
        assert np.array_equal(copy.read(0, 0, 0, 90, 70), slide.read(0, 0, 0, 90, 70))
        assert np.array_equal(slide.with_mpp(0.25).read(0, 0, 0, 9, 9), slide.read(0, 0, 0, 9, 9))


@pytest.mark.parametrize("channels", [[], [0, 1], [0, 1, 2, 3]])
def test_channel_slide_refuses_numbers_of_channels_other_than_1_and_3(tmp_path, channels):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 40, 50), np.uint8), photometric="minisblack")
    with pytest.raises(SettingsError, match="one.*three"):
        open_slide(tmp_path / "a.tif", channels=channels)


def test_channel_slide_names_a_missing_channel(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 40, 50), np.uint8), photometric="minisblack")
    with pytest.raises(SettingsError, match="no channel 7"):
        open_slide(tmp_path / "a.tif", channels=[7])


def test_channel_slide_reads_the_middle_plane_of_a_focal_stack(tmp_path):
    stack = np.stack([np.full((40, 50), value, np.uint8) for value in (10, 200, 250)])
    tifffile.imwrite(tmp_path / "z.ome.tif", stack, metadata={"axes": "ZYX"})
    with open_slide(tmp_path / "z.ome.tif", channels=[0]) as slide:
        assert slide.read(0, 0, 0, 40, 50).mean() == 200
        assert "number 2" in slide.notes[0]


def test_channel_slide_refuses_float_pixels_and_time_points(tmp_path):
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((40, 50), np.float32))
    with pytest.raises(SlideError, match="float32"):
        open_slide(tmp_path / "f.tif", channels=[0])
    tifffile.imwrite(tmp_path / "t.ome.tif", np.zeros((4, 40, 50), np.uint8), metadata={"axes": "TYX"})
    with pytest.raises(SlideError, match="4 time points"):
        open_slide(tmp_path / "t.ome.tif", channels=[0])


def test_channel_slide_refuses_files_that_are_not_images(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"nothing of the kind")
    with pytest.raises(SlideError, match=r"a\.tif"):
        open_slide(tmp_path / "a.tif", channels=[0])


def test_convert_writes_a_slide_of_the_chosen_channels(tmp_path):
    image = _grey16(700, 900)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(128, 128), resolution=(20000, 20000), resolutionunit="CENTIMETER")
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "a.tif"), "--channels", "0", "--lossless"])
    assert result.exit_code == 0, result.output
    with open_slide(tmp_path / "a.pyramid.tif") as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert np.array_equal(slide.read(0, 0, 0, 700, 900)[..., 1], np.round(image * (255 / 4095)).astype(np.uint8))


@pytest.mark.parametrize("options", [["--channels", "red"], ["--white", "9"]])
def test_convert_refuses_invalid_options(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", _grey16(64, 64))
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "a.tif"), *options])
    assert result.exit_code == 2
    assert "--channels" in result.stderr


# -- three channels that are red, green and blue


@pytest.mark.parametrize("compression", ["zlib", "jpeg2000", None])
@pytest.mark.parametrize("tile", [(64, 64), None])
def test_ome_tiff_of_three_8_bit_channels_is_rgb(tmp_path, compression, tile):
    image = picture(200, 300)
    coding = {"reversible": True} if compression == "jpeg2000" else {}
    layout = {"tile": tile} if tile else {"rowsperstrip": 48}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        options = {"photometric": "minisblack", "compression": compression, "compressionargs": coding, **layout}
        metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        tif.write(np.moveaxis(image, 2, 0), subifds=1, metadata=metadata, **options)
        tif.write(np.moveaxis(half(image), 2, 0), subfiletype=1, **options)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert [level.shape for level in slide.levels] == [(200, 300), (100, 150)]
        assert np.array_equal(slide.read(0, 0, 0, 200, 300), image)
        assert np.array_equal(slide.read(1, 10, 20, 50, 60), half(image)[10:60, 20:80])
        assert slide.mpp == pytest.approx(0.5)
        assert slide.notes == ("Its three channels are read as red, green and blue.",)


@pytest.mark.parametrize(
    ("colours", "order"),
    [
        (None, [0, 1, 2]),
        ([-1, -1, -1], [0, 1, 2]),
        ([-16776961, 16711935, 65535], [0, 1, 2]),  # 0xFF0000FF, 0x00FF00FF, 0x0000FFFF as OME writes them
        ([65535, 16711935, -16776961], [2, 1, 0]),
        ([65535, 16711935, -65281], None),
    ],
)
def test_ome_tiff_channel_colours_decide_which_is_red_green_and_blue(tmp_path, colours, order):
    image = picture(200, 300)
    metadata = {"axes": "CYX"} | ({} if colours is None else {"Channel": {"Color": colours}})
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.moveaxis(image, 2, 0), photometric="minisblack", metadata=metadata)
    if order is None:
        with pytest.raises(SlideError, match=r"3 grey channels.*--channels"):
            open_slide(path)
    else:
        with open_slide(path) as slide:
            assert np.array_equal(slide.read(0, 0, 0, 200, 300), image[..., order])


@pytest.mark.parametrize(("axes", "notes"), [("ZCYX", 2), ("CZYX", 2), ("TCYX", 2)])
def test_ome_tiff_channels_of_a_focal_stack_are_of_one_plane(tmp_path, axes, notes):
    image = picture(200, 300)
    pictures = [np.zeros((3, 200, 300), np.uint8)] * 4
    pictures[0 if "T" in axes else 2] = np.moveaxis(image, 2, 0)
    stack = np.stack(pictures, axis=axes.index("C") == 0)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": axes})
    with open_slide(tmp_path / "a.ome.tif") as slide:
        assert np.array_equal(slide.read(0, 0, 0, 200, 300), image)
        assert len(slide.notes) == notes
        assert "4 " in slide.notes[1]


@pytest.mark.parametrize("attribute", [{"EmissionWavelength": [461, 519, 590]}, {"Fluor": ["DAPI", "FITC", "Cy3"]}])
def test_ome_tiff_of_three_fluorescence_channels_is_not_rgb(tmp_path, attribute):
    path, metadata = tmp_path / "a.ome.tif", {"axes": "CYX", "Channel": attribute}
    tifffile.imwrite(path, np.moveaxis(picture(200, 300), 2, 0), photometric="minisblack", metadata=metadata)
    with pytest.raises(SlideError, match="3 grey channels"):
        open_slide(path)


@pytest.mark.parametrize("shape", [(2, 60, 70), (4, 60, 70)])
def test_ome_tiff_of_two_or_four_channels_is_not_rgb(tmp_path, shape):
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros(shape, np.uint8), photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(SlideError, match=f"{shape[0]} grey channels"):
        open_slide(tmp_path / "a.ome.tif")


# -- channels of what is RGB already


def test_channel_slide_of_an_rgb_slide_has_red_green_and_blue_channels(tmp_path):
    image = picture(200, 300)
    Image.fromarray(image).save(tmp_path / "a.png")
    for path in (
        tmp_path / "a.png",
        write_svs(tmp_path / "a.svs", image, compression=33003),
        write_mrxs(tmp_path / "a.mrxs", image),
    ):
        with open_slide(path) as slide:
            pixels = slide.read(0, 0, 0, 200, 300)
        with open_slide(path, channels=[1]) as slide:
            assert np.array_equal(slide.read(0, 0, 0, 200, 300), np.stack([pixels[..., 1]] * 3, -1)), path.name
        with open_slide(path, channels=[2, 1, 0]) as slide:
            assert np.array_equal(slide.read(0, 0, 0, 200, 300), pixels[..., ::-1]), path.name


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channel_slide_inverts_tiffs_in_which_white_is_zero(tmp_path, dtype):
    top = np.iinfo(dtype).max
    grey = np.linspace(0, top, 90 * 70).reshape(90, 70).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", top - grey, photometric="miniswhite", tile=(32, 32))
    with open_slide(tmp_path / "a.tif", channels=[0]) as slide:
        assert np.abs(slide.read(0, 0, 0, 90, 70)[..., 0] - grey * (255 / top)).max() <= 1


def test_channel_slide_composites_grey_with_opacity_on_white(tmp_path):
    grey = np.zeros((40, 50, 2), np.uint8)
    grey[:, 25:, 1] = 255
    Image.fromarray(grey, "LA").save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", channels=[0], white=255) as slide:
        pixels = slide.read(0, 0, 0, 40, 50)
    assert (pixels[:, :25] == 255).all()
    assert (pixels[:, 25:] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--channels", "0,1"], "2 channels are chosen"),
        (["--channels", "7"], "no channel 7"),
        (["--channels", "-1"], "a negative number"),
        (["--channels", "0,1,-2"], "a negative number"),
        (["--channels", ""], "is not a list of numbers"),
        (["--channels", "1.5"], "is not a list of numbers"),
        (["--channels", "0,,1"], "is not a list of numbers"),
        (["--out", "."], "is a folder"),
        (["--out", ".."], "is a folder"),
        (["--out", "/"], "is a folder"),
        (["--out", ""], "is a folder"),
    ],
)
def test_convert_reports_errors_in_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    result = CliRunner().invoke(app, ["convert", "a.png", *arguments])
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]
