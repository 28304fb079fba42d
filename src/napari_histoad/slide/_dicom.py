"""DICOM slides: by OpenSlide where it can, else decoded frame by frame (rare encodings, concatenations, focal planes)."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import imagecodecs
import numpy as np
from PIL import Image

from napari_histoad.errors import SlideError, first_line
from napari_histoad.slide._base import make_levels
from napari_histoad.slide._colour import GLASS
from napari_histoad.slide._dicom_folder import choose_series, find_instances, holds_instances, pictures_of, series_of
from napari_histoad.slide._dicom_frames import JPEG, declares_other_colours, defragmented, is_ycbcr, read_images
from napari_histoad.slide._jpeg2000 import Codestream
from napari_histoad.slide._openslide import OpenSlideSlide
from napari_histoad.slide._positional_file import PositionalFile
from napari_histoad.slide._tiled import TiledSlide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom import Dataset

    from napari_histoad.slide._base import Slide
    from napari_histoad.slide._dicom_frames import FrameImage

_LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_HTJ2K = tuple(f"1.2.840.10008.1.2.4.20{n}" for n in (1, 2, 3))
_JPEG_XL = tuple(f"1.2.840.10008.1.2.4.11{n}" for n in (0, 1, 2))
_RLE = "1.2.840.10008.1.2.5"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
_KNOWN = {*JPEG, *_LOSSLESS_JPEG, *_JPEG_LS, *_JPEG_2000, *_HTJ2K, *_JPEG_XL, _RLE, *_NATIVE}


class DicomSlide(TiledSlide):
    """A DICOM slide whose frames are decoded one by one, from the files of its series and those of its label and macro."""

    format: ClassVar[str] = "DICOM"
    patterns: ClassVar[tuple[str, ...]] = ("*.dcm",)

    @classmethod
    def supports(cls, path: Path, head: bytes | None) -> bool:
        return holds_instances(path) if head is None else head[128:132] == b"DICM"

    @classmethod
    def from_path(cls, path: Path, mpp: float | None) -> Slide:
        notes: Sequence[str] = ()
        if path.is_dir():
            instances, notes = choose_series(find_instances(path), path)
        else:
            instances = series_of(path)
        files = [instance.path for instance in instances]
        shapes = {instance.shape for instance in instances}
        odd_colours = any(declares_other_colours(file) for file in files)
        if odd_colours:
            notes = [*notes, "Its header states another colour space than its JPEG frames: that of the frames is used."]
        joined = any(one.concatenated or one.focal_planes > 1 or one.optical_paths > 1 for one in instances)
        if not (joined or odd_colours or len(shapes) < len(files)):
            with suppress(SlideError):
                return OpenSlideSlide(path, mpp, file=files[0], notes=notes)
        return cls(path, mpp, files, notes, pictures_of(instances[0]))

    def __init__(
        self,
        path: Path,
        mpp: float | None,
        files: Sequence[Path],
        notes: Sequence[str] = (),
        pictures: Mapping[str, Path] | None = None,
    ) -> None:
        try:
            images = read_images(files)
            self._images = images
            header = images[0].header
            odd = {str(image.header.file_meta.TransferSyntaxUID) for image in images} - _KNOWN
            if odd:
                what = f"{path.name} has an unsupported transfer syntax ({', '.join(sorted(odd))})"
                raise SlideError(what, "store it in another transfer syntax: JPEG or JPEG 2000, for example")
            profile = _profile(header)
        except SlideError:
            raise
        except Exception as err:  # a damaged header may raise anything
            raise SlideError(f"{path.name} is not a slide that can be read ({first_line(err)})", "check the file") from err
        super().__init__(
            path,
            make_levels([image.shape for image in images]),
            [image.tile for image in images],
            file_mpp_yx=_mpp_yx(images[0]),
            mpp=mpp,
            properties={"series": str(header.get("SeriesInstanceUID") or ""), "instances": str(len(files))},
            icc_profile=profile,
            notes=[*notes, *dict.fromkeys(note for image in images for note in image.notes)],
        )
        for name, file in (pictures or {}).items():
            self._associated[name] = partial(_read_picture, file)
        self._files = [[PositionalFile(file.path) for file in image.files] for image in images]

    def _decode(self, level: int, row: int, column: int, out: NDArray[np.uint8]) -> None:
        image = self._images[level]
        where = image.frames.get((row, column))
        if where is None:
            out[:] = GLASS  # never scanned
            return
        number, frame = where
        file, (begin, end) = image.files[number], image.files[number].spans[frame]
        try:
            data = self._files[level][number].read(end - begin, begin)
            out[:] = _pixels(data, file.header, out.shape)
        except Exception as err:  # so may a damaged frame, depending on the codec
            if str(err) == "the slide has been closed":
                raise SlideError(f"{self.path.name} has been closed", "open it again") from err
            msg = f"{file.path.name}: tile (row {row}, column {column}) of level {level} cannot be decoded ({first_line(err)})"
            raise SlideError(msg, "the file is damaged there: copy it again from its source") from err

    def close(self) -> None:
        for files in self._files:
            for file in files:
                file.close()
        super().close()


def _read_picture(file: Path) -> NDArray[np.uint8]:
    with DicomSlide(file, None, [file]) as picture:
        return picture.read(0, 0, 0, *picture.shape)


def _pixels(data: bytes, header: Dataset, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a frame as RGB pixels in the shape stated by its header."""
    syntax, colours = str(header.file_meta.TransferSyntaxUID), str(header.PhotometricInterpretation)
    ycbcr = colours.startswith("YBR")
    if syntax in _NATIVE:
        return _native(data, header, shape)
    code = defragmented(data)
    if syntax in JPEG:
        stored = "YCBCR" if is_ycbcr(code, declared=ycbcr) else "RGB"
        pixels = imagecodecs.jpeg8_decode(code, colorspace=stored, outcolorspace="RGB")
    elif syntax in _JPEG_2000:
        parsed = Codestream.parse(code)
        pixels = parsed.decode(ycbcr=ycbcr and not parsed.transformed)
    elif syntax in _JPEG_XL:
        pixels = imagecodecs.jpegxl_decode(code)
    elif syntax in _HTJ2K:
        pixels = _to_rgb(imagecodecs.htj2k_decode(code), ycbcr=colours.startswith("YBR_FULL"))
    elif syntax in _JPEG_LS:
        pixels = _to_rgb(imagecodecs.jpegls_decode(code), ycbcr=ycbcr)
    elif syntax in _LOSSLESS_JPEG:
        pixels = _to_rgb(imagecodecs.ljpeg_decode(code), ycbcr=ycbcr)
    else:
        planes = np.frombuffer(imagecodecs.dicomrle_decode(code, np.uint8), np.uint8)
        planar = planes[: shape[0] * shape[1] * 3].reshape(3, *shape[:2])
        pixels = _to_rgb(np.moveaxis(planar, 0, 2), ycbcr=ycbcr)
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ValueError(f"it is {pixels.dtype} of shape {' x '.join(map(str, pixels.shape))}")
    return np.asarray(pixels, np.uint8)


def _native(data: bytes, header: Dataset, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    colours, pixels = str(header.PhotometricInterpretation), np.frombuffer(data, np.uint8)
    if colours == "YBR_FULL_422":  # two pixels: Y Y Cb Cr
        pairs = pixels.reshape(shape[0], -1, 4)
        ycc = np.stack([pairs[..., :2].reshape(shape[:2]), *(np.repeat(pairs[..., n], 2, axis=1) for n in (2, 3))], axis=-1)
        return _to_rgb(ycc, ycbcr=True)
    if header.get("PlanarConfiguration") == 1:
        pixels = np.moveaxis(pixels.reshape(3, *shape[:2]), 0, 2)
    return _to_rgb(pixels.reshape(shape), ycbcr=colours.startswith("YBR"))


def _to_rgb(pixels: Any, *, ycbcr: bool) -> NDArray[np.uint8]:
    stored: NDArray[np.uint8] = np.ascontiguousarray(pixels)
    return np.asarray(Image.frombytes("YCbCr", stored.shape[1::-1], stored.tobytes()).convert("RGB")) if ycbcr else stored


def _profile(header: Dataset) -> bytes | None:
    paths = header.get("OpticalPathSequence")
    profile = (paths[0].get("ICCProfile") if paths else None) or header.get("ICCProfile")
    return bytes(profile) if profile else None


def _mpp_yx(image: FrameImage) -> tuple[float, float] | None:
    """Return µm per pixel (y, x) from the pixel spacing, else from the imaged size; None if neither is usable."""
    header = image.header
    try:
        measures = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        spacing = float(measures[0]) * 1000, float(measures[1]) * 1000
        if min(spacing) > 0:
            return spacing
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        pass
    try:
        size = float(header.ImagedVolumeHeight) * 1000 / image.shape[0], float(header.ImagedVolumeWidth) * 1000 / image.shape[1]
    except (AttributeError, TypeError, ValueError):
        return None
    return size if min(size) > 0 else None
