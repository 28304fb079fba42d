"""Writer of small DICOM slides, one file per level."""

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)
from slide_writers import tiles_of


def _rle(tile):
    rows, columns, _ = tile.shape
    return RLELosslessEncoder.encode(
        tile,
        rows=rows,
        columns=columns,
        samples_per_pixel=3,
        bits_allocated=8,
        bits_stored=8,
        pixel_representation=0,
        photometric_interpretation="RGB",
        number_of_frames=1,
        planar_configuration=0,
    )


ENCODINGS = {
    "rle": (RLELossless, _rle),
    "jpeg-ls": (JPEGLSLossless, lambda tile: imagecodecs.jpegls_encode(tile, out=tile.nbytes * 2)),
    "htj2k": (HTJ2KLossless, imagecodecs.htj2k_encode),
    "jpeg 2000": (JPEG2000Lossless, lambda tile: imagecodecs.jpeg2k_encode(tile, codecformat="j2k", level=0, reversible=True)),
}


def _sequence(**values):
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def _code(value, meaning):
    return _sequence(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)


def write_dicom(folder, images, encoding, mpp=0.5, side=64, icc=None, frames_of=None, change=None):
    """Write the levels (H, W, 3) of a slide, finest first, and return the file of the finest.

    ``encoding`` is a name or (transfer syntax, function of a tile); ``frames_of(image)`` gives other frames than one per tile
    in order; ``change(dataset, level)`` alters the header last.
    """
    syntax, encode = ENCODINGS[encoding] if isinstance(encoding, str) else encoding
    study, series, frame, pyramid = (generate_uid() for _ in range(4))
    folder.mkdir(exist_ok=True)
    height, width = (n * mpp / 1000 for n in images[0].shape[:2])
    for level, image in enumerate(images):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = VLWholeSlideMicroscopyImageStorage, syntax
        meta.MediaStorageSOPInstanceUID = generate_uid()
        ds = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.PyramidUID = study, series, frame, pyramid
        kind = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"] if level else ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        ds.Modality, ds.ImageType, ds.InstanceNumber, ds.VolumetricProperties = "SM", kind, level + 1, "VOLUME"
        ds.Rows = ds.Columns = side
        ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns = image.shape[:2]
        ds.TotalPixelMatrixFocalPlanes = ds.NumberOfOpticalPaths = 1
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration, ds.PixelRepresentation = 3, "RGB", 0, 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.LossyImageCompression = 8, 8, 7, "00"
        ds.ImagedVolumeHeight, ds.ImagedVolumeWidth, ds.ImagedVolumeDepth = height, width, 1.0
        ds.DimensionOrganizationType, ds.SpecimenLabelInImage, ds.BurnedInAnnotation = "TILED_FULL", "NO", "NO"
        ds.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
        ds.TotalPixelMatrixOriginSequence = _sequence(XOffsetInSlideCoordinateSystem=0.0, YOffsetInSlideCoordinateSystem=0.0)
        ds.OpticalPathSequence = _sequence(
            OpticalPathIdentifier="0",
            IlluminationTypeCodeSequence=_code("111744", "Brightfield illumination"),
            IlluminationColorCodeSequence=_code("11744", "Full Spectrum"),
        )
        if icc is not None:
            ds.OpticalPathSequence[0].ICCProfile = icc + bytes(len(icc) % 2)
        spacing = height / image.shape[0]
        ds.SharedFunctionalGroupsSequence = _sequence(
            PixelMeasuresSequence=_sequence(PixelSpacing=[spacing, spacing], SliceThickness=0.001),
            WholeSlideMicroscopyImageFrameTypeSequence=_sequence(FrameType=kind),
        )
        tiles = tiles_of(image, side) if frames_of is None else frames_of(image)
        frames = [encode(np.ascontiguousarray(tile)) for tile in tiles]
        ds.NumberOfFrames = len(frames)
        if syntax == ExplicitVRLittleEndian:
            ds.PixelData = b"".join(frames)
        else:
            ds.PixelData = encapsulate(frames)
            ds["PixelData"].is_undefined_length = True
        if change is not None:
            change(ds, level)
        ds.save_as(folder / f"level{level}.dcm", enforce_file_format=True)
    return folder / "level0.dcm"
