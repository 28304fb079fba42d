"""DICOM decoded frame by frame: colour spaces, positions of frames, and wrong headers."""

import io
import logging
import warnings

import imagecodecs
import numpy as np
import pytest
from dicom_writer import ENCODINGS, write_dicom
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless, generate_uid
from slide_writers import half, picture, tiles_of

from napari_histoad import open_slide
from napari_histoad.errors import SlideError
from napari_histoad.slide._dicom import DicomSlide

IMAGE = picture(150, 200)


def ycc(tile):
    return np.asarray(Image.fromarray(tile).convert("YCbCr"))


def jpeg(tile, **options):
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=98, **options)
    return buffer.getvalue()


def pairs(tile):
    """Y Y Cb Cr, the colours of two pixels averaged."""
    colours = ycc(tile).reshape(tile.shape[0], -1, 2, 3)
    chroma = colours[..., 1:].astype(int).mean(axis=2).round().astype(np.uint8)
    return np.concatenate([colours[..., 0], chroma], axis=-1).tobytes()


def without_jfif(data):
    return data[:2] + data[20:]


def j2k(tile, mct):
    return imagecodecs.jpeg2k_encode(tile, codecformat="j2k", level=0, reversible=True, mct=mct)


STORED = {
    "native RGB": (ExplicitVRLittleEndian, "RGB", lambda t: t.tobytes()),
    "native planar": (ExplicitVRLittleEndian, "RGB", lambda t: np.moveaxis(t, 2, 0).tobytes()),
    "native YCbCr": (ExplicitVRLittleEndian, "YBR_FULL", lambda t: ycc(t).tobytes()),
    "native 4:2:2": (ExplicitVRLittleEndian, "YBR_FULL_422", pairs),
    "RLE YCbCr": (RLELossless, "YBR_FULL", lambda t: ENCODINGS["rle"][1](ycc(t))),
    "JPEG-LS YCbCr": (JPEGLSLossless, "YBR_FULL", lambda t: ENCODINGS["jpeg-ls"][1](ycc(t))),
    "JPEG 4:4:4": (JPEGBaseline8Bit, "YBR_FULL_422", lambda t: jpeg(t, subsampling=0)),
    "JPEG 4:2:2": (JPEGBaseline8Bit, "YBR_FULL_422", lambda t: jpeg(t, subsampling=1)),
    "JPEG 4:2:0": (JPEGBaseline8Bit, "YBR_FULL_422", lambda t: jpeg(t, subsampling=2)),
    "JPEG RGB": (JPEGBaseline8Bit, "RGB", lambda t: jpeg(t, keep_rgb=True)),
    "JPEG RGB called YCbCr": (JPEGBaseline8Bit, "YBR_FULL_422", lambda t: jpeg(t, keep_rgb=True)),
    "JPEG YCbCr called RGB": (JPEGBaseline8Bit, "RGB", lambda t: jpeg(t, subsampling=0)),
    "JPEG 4:2:0 called RGB, no marker": (JPEGBaseline8Bit, "RGB", lambda t: without_jfif(jpeg(t, subsampling=2))),
    "JPEG YCbCr, no marker": (JPEGBaseline8Bit, "YBR_FULL_422", lambda t: without_jfif(jpeg(t, subsampling=0))),
    "JPEG 2000 RCT": (JPEG2000, "YBR_RCT", lambda t: j2k(t, True)),
    "JPEG 2000 RGB": (JPEG2000, "RGB", lambda t: j2k(t, False)),
    "JPEG 2000 YCbCr": (JPEG2000, "YBR_FULL", lambda t: j2k(ycc(t), False)),
}


@pytest.mark.parametrize("kind", STORED)
def test_dicom_colours_are_right_in_every_colour_space(tmp_path, kind):
    syntax, colours, encode = STORED[kind]

    def change(ds, level):
        ds.PhotometricInterpretation = colours
        ds.PlanarConfiguration = int("planar" in kind)

    path = write_dicom(tmp_path / "one", (IMAGE,), (syntax, encode), change=change)
    with open_slide(path) as slide, DicomSlide(path, None, [path]) as frames:
        for one in (slide, frames):
            difference = np.abs(one.read(0, 0, 0, 150, 200).astype(int) - IMAGE)
            assert difference.mean() < (6 if "4:2" in kind else 2), one.format
        assert bool([note for note in slide.notes if "another colour space" in note]) == ("called" in kind)


@pytest.mark.parametrize("how", ["one table", "no table", "extended table", "fragments"])
def test_dicom_frames_are_found_with_and_without_an_offset_table(tmp_path, how):
    path = write_dicom(tmp_path / "one", (IMAGE,), "rle")
    ds = dcmread(path)
    frames = list(generate_frames(ds.PixelData, number_of_frames=int(ds.NumberOfFrames)))
    if how == "extended table":
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        ds.PixelData = encapsulate(frames, fragments_per_frame=2 if how == "fragments" else 1, has_bot=how != "no table")
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    with open_slide(path) as slide:
        assert slide.format == "DICOM"
        assert np.array_equal(slide.read(0, 0, 0, 150, 200), IMAGE)


def concatenated(folder, encoding, image=IMAGE):
    """The frames of one picture in two files."""
    path = write_dicom(folder, (image, half(image)), encoding)
    ds = dcmread(path)
    frames = list(generate_frames(ds.PixelData, number_of_frames=int(ds.NumberOfFrames)))
    uid = generate_uid()
    for number, (first, last) in enumerate(((0, 5), (5, len(frames)))):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.ConcatenationUID, ds.InConcatenationNumber, ds.InConcatenationTotalNumber = uid, number + 1, 2
        ds.ConcatenationFrameOffsetNumber, ds.NumberOfFrames = first, last - first
        ds.PixelData = encapsulate(frames[first:last])
        ds["PixelData"].is_undefined_length = True
        ds.save_as(folder / f"part{number}.dcm")
    path.unlink()
    return folder


@pytest.mark.parametrize("encoding", ["rle", "jpeg 2000"])
def test_dicom_concatenation_is_one_image_and_missing_parts_are_noted(tmp_path, encoding):
    folder = concatenated(tmp_path / "one", encoding)
    for path in (folder, folder / "part1.dcm"):
        with open_slide(path) as slide:
            assert [level.shape for level in slide.levels] == [(150, 200), (75, 100)]
            assert np.array_equal(slide.read(0, 0, 0, 150, 200), IMAGE)
    (folder / "part1.dcm").unlink()
    with open_slide(folder) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 64, 200), IMAGE[:64])
        assert (slide.read(0, 128, 0, 20, 200) == 255).all()
        assert "1 of 2 files of its concatenation are missing" in slide.notes[0]


def sparse(ds, places, planes=1):
    ds.DimensionOrganizationType = "TILED_SPARSE"
    groups = []
    for y, x, z in places:
        position = Dataset()
        position.ColumnPositionInTotalImagePixelMatrix, position.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
        position.XOffsetInSlideCoordinateSystem = position.YOffsetInSlideCoordinateSystem = 0
        position.ZOffsetInSlideCoordinateSystem = z
        group = Dataset()
        group.PlanePositionSlideSequence = Sequence([position])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.TotalPixelMatrixFocalPlanes = planes


def test_sparse_dicom_tiles_are_at_their_stated_positions_and_missing_ones_white(tmp_path):
    places = [(y, x, 0) for y in (0, 64, 128) for x in (0, 64, 128, 192)]
    order = [7, 3, 0, 11, 5, 1, 9, 2, 4, 10, 6]  # the ninth was not scanned
    path = write_dicom(
        tmp_path / "one",
        (IMAGE,),
        "rle",
        frames_of=lambda image: [list(tiles_of(image, 64))[n] for n in order],
        change=lambda ds, level: sparse(ds, [places[n] for n in order]),
    )
    right = IMAGE.copy()
    right[128:, :64] = 255
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 150, 200), right)


def test_sparse_dicom_tiles_off_the_grid_are_refused(tmp_path):
    path = write_dicom(
        tmp_path / "one",
        (IMAGE,),
        "rle",
        frames_of=lambda image: [image[:64, :64], image[:64, 32:96]],
        change=lambda ds, level: sparse(ds, [(0, 0, 0), (0, 32, 0)]),
    )
    with pytest.raises(SlideError, match="not on a grid"):
        open_slide(path)


@pytest.mark.parametrize("full", [True, False])
def test_dicom_is_read_at_the_middle_focal_plane_with_a_note(tmp_path, full):
    places = [(y, x) for y in (0, 64, 128) for x in (0, 64, 128, 192)]

    def change(ds, level):
        ds.TotalPixelMatrixFocalPlanes = 3
        if not full:
            sparse(ds, [(*place, z) for z in (0.002, 0.0, -0.002) for place in places], 3)

    path = write_dicom(
        tmp_path / "one",
        (IMAGE,),
        "jpeg 2000",
        frames_of=lambda image: [tile for part in (image // 2, image, image // 3) for tile in tiles_of(part, 64)],
        change=change,
    )
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 150, 200), IMAGE)
        chosen = "number 2, the middle one, is read" if full else "the one at z = 0 µm is read"
        (note,) = slide.notes
        assert chosen in note


def test_dicom_is_read_at_the_first_optical_path_with_a_note(tmp_path):
    def change(ds, level):
        ds.NumberOfOpticalPaths = 2
        ds.OpticalPathSequence.append(ds.OpticalPathSequence[0])

    path = write_dicom(
        tmp_path / "one",
        (IMAGE,),
        "jpeg 2000",
        frames_of=lambda image: [tile for part in (image, image // 3) for tile in tiles_of(part, 64)],
        change=change,
    )
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 150, 200), IMAGE)
        assert slide.notes == ("It holds 2 optical paths: the first is read.",)


def test_dicom_folder_opens_the_largest_series_with_a_note(tmp_path):
    write_dicom(tmp_path, (IMAGE // 2,), "rle").rename(tmp_path / "b.dcm")
    write_dicom(tmp_path, (half(IMAGE),), "rle").rename(tmp_path / "a.dcm")

    def label(ds, level):
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]

    write_dicom(tmp_path, (picture(300, 400),), "rle", change=label).rename(tmp_path / "0.dcm")
    with open_slide(tmp_path) as slide:
        assert slide.shape == (150, 200)
        assert np.array_equal(slide.read(0, 0, 0, 150, 200), IMAGE // 2)
        assert len(slide.notes) == 1
        assert "2 DICOM series" in slide.notes[0]
        assert "b.dcm" in slide.notes[0]


@pytest.mark.parametrize("spacing", [None, [0, 0], ["nonsense", "0.5"], [0.0000001, 0.0000001]])
def test_dicom_with_an_invalid_resolution_has_none_and_gives_no_warning(tmp_path, spacing, caplog):
    def change(ds, level):
        measures = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        del measures.PixelSpacing, ds.ImagedVolumeWidth
        if spacing is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                measures.add_new("PixelSpacing", "DS" if spacing[0] != "nonsense" else "LO", spacing)

    path = write_dicom(tmp_path / "one", (IMAGE,), "rle", change=change)
    with caplog.at_level(logging.WARNING), open_slide(path) as slide:
        assert slide.mpp is None
        assert not [record for record in caplog.records if record.name.startswith("pydicom")]
        assert logging.getLogger("pydicom").disabled is False


@pytest.mark.parametrize(("samples", "bits", "colours"), [(1, 8, "MONOCHROME2"), (1, 16, "MONOCHROME2"), (1, 8, "PALETTE COLOR")])
def test_dicom_that_is_not_rgb_is_refused_with_a_remedy(tmp_path, samples, bits, colours):
    def change(ds, level):
        ds.SamplesPerPixel, ds.BitsAllocated, ds.PhotometricInterpretation = samples, bits, colours

    path = write_dicom(tmp_path / "one", (IMAGE,), (ExplicitVRLittleEndian, lambda t: t[..., 0].tobytes()), change=change)
    with pytest.raises(SlideError, match="not 8-bit RGB.*OME-TIFF"):
        open_slide(path)


def test_dicom_that_is_not_a_slide_is_refused_in_one_line(tmp_path):
    def change(ds, level):
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # CT

    path = write_dicom(tmp_path / "one", (IMAGE,), "rle", change=change)
    for one in (path, path.parent):
        with pytest.raises(SlideError, match="not a whole-slide image|without a slide"):
            open_slide(one)
