"""The frames of a DICOM slide: for each tile, its file and the position of its bytes there.

Standard: DICOM PS3.3 C.7.6.16 (functional groups) and C.8.12.4 (whole-slide images), PS3.5 A.4 (encapsulated frames).
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from pydicom import dcmread
from pydicom.encaps import generate_fragments, parse_basic_offsets, parse_fragments

from napari_histoad.errors import SlideError
from napari_histoad.slide._dicom_folder import without_warnings
from napari_histoad.slide._focus import focal_plane

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pydicom import Dataset

JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
_EXPORT = "export it as an 8-bit RGB slide, OME-TIFF for example"


@dataclass(frozen=True)
class FrameFile:
    """One DICOM file: its header, and the byte ranges [begin, end) of its frames."""

    path: Path
    header: Dataset
    spans: list[tuple[int, int]]

    @property
    def first(self) -> int:
        """Number of its first frame within the concatenation."""
        return int(self.header.get("ConcatenationFrameOffsetNumber") or 0)


@dataclass(frozen=True)
class FrameImage:
    """One image, in one file or concatenated from several.

    `frames` are those of one focal plane and one optical path, by (row, column); tiles that were never scanned are missing.
    """

    files: list[FrameFile]
    shape: tuple[int, int]  # (height, width) in pixels
    tile: tuple[int, int]
    frames: dict[tuple[int, int], tuple[int, int]]  # (file, frame)
    notes: tuple[str, ...]  # sentences for users about what was chosen

    @property
    def header(self) -> Dataset:
        """The header of its first file."""
        return self.files[0].header


def read_images(paths: Sequence[Path]) -> list[FrameImage]:
    """Return the images of one series, largest first, one of each size.

    Raises `SlideError` if an image is not 8-bit RGB in tiles; ValueError, KeyError, OSError and others if a file is damaged.
    """
    parts: dict[str, list[FrameFile]] = {}
    for path in paths:
        file = _read(path)
        parts.setdefault(str(file.header.get("ConcatenationUID") or file.header.SOPInstanceUID), []).append(file)
    images = [_image(sorted(files, key=lambda file: file.first)) for files in parts.values()]
    images.sort(key=lambda image: -image.shape[0] * image.shape[1])  # stable: among equal sizes the first by file name
    pyramid, shapes = images[0].header.get("PyramidUID"), set()
    kept: list[FrameImage] = []
    for image in images:
        if image.shape not in shapes and image.header.get("PyramidUID") == pyramid:
            kept.append(image)
            shapes.add(image.shape)
    if len(kept) < len(images):
        note = f"{len(kept)} of its {len(images)} images are read; the others are more focal planes, optical paths or pyramids."
        kept[0] = FrameImage(**{**vars(kept[0]), "notes": (*kept[0].notes, note)})
    return kept


def is_ycbcr(jpeg: bytes, *, declared: bool) -> bool:
    """Return whether a JPEG codestream stores YCbCr.

    Markers in the codestream decide: Adobe's, then JFIF's, which means YCbCr, then subsampling, which RGB never has. Only without
    them the DICOM header is used, because some converters write it wrongly.
    """
    at, jfif, subsampled = 2, False, False
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        kind, (length,) = jpeg[at + 1], struct.unpack_from(">H", jpeg, at + 2)
        body = jpeg[at + 4 : at + 2 + length]
        if kind == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            return body[11] == 1
        jfif |= kind == 0xE0 and body[:4] == b"JFIF"
        if kind in (0xC0, 0xC1, 0xC2) and len(body) >= 15:
            subsampled = len({body[7], body[10], body[13]}) > 1
        at += 2 + length
    return jfif or subsampled or declared


def declares_other_colours(path: Path) -> bool:
    """Return whether a file's header states another colour space than its JPEG frames; False if it cannot be read."""
    try:
        file = _read(path)
        if str(file.header.file_meta.TransferSyntaxUID) not in JPEG:
            return False
        declared = str(file.header.PhotometricInterpretation).startswith("YBR")
        (begin, end), *_ = file.spans
        with path.open("rb") as handle:
            handle.seek(begin)
            return is_ycbcr(defragmented(handle.read(end - begin)), declared=declared) != declared
    except Exception:  # noqa: BLE001 - opening it will report what is wrong
        return False


def defragmented(data: bytes) -> bytes:
    """Return a frame without the headers of its fragments (DICOM items)."""
    return b"".join(generate_fragments(data))


def _read(path: Path) -> FrameFile:
    with path.open("rb") as handle:
        with without_warnings():
            header = dcmread(handle, stop_before_pixels=True)
            for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "OpticalPathSequence"):
                header.get(name)
        _check(header, path)
        return FrameFile(path, header, _spans(handle, header))


def _check(header: Dataset, path: Path) -> None:
    samples, bits = header.get("SamplesPerPixel"), header.get("BitsAllocated")
    colours = str(header.get("PhotometricInterpretation"))
    if samples != 3 or bits != 8:
        raise SlideError(f"{path.name} is not 8-bit RGB: {colours}, {samples} x {bits} bits", _EXPORT)
    if str(header.file_meta.TransferSyntaxUID) == "1.2.840.10008.1.2.1.99":
        raise SlideError(f"{path.name} is a deflated DICOM file", "store it in another transfer syntax")


def _spans(handle: BinaryIO, header: Dataset) -> list[tuple[int, int]]:
    """Return the byte range of each frame; the file must be positioned at the pixel data."""
    count = int(header.get("NumberOfFrames") or 1)
    syntax = str(header.file_meta.TransferSyntaxUID)
    begin = handle.tell() + (8 if syntax == _NATIVE[0] else 12)
    end = handle.seek(0, 2)
    if syntax in _NATIVE:
        size = int(header.Rows) * int(header.Columns) * (2 if header.PhotometricInterpretation == "YBR_FULL_422" else 3)
        return [(begin + n * size, begin + (n + 1) * size) for n in range(count)]
    handle.seek(begin)
    offsets, first = parse_basic_offsets(handle), handle.tell()
    if header.get("ExtendedOffsetTable"):
        extended = header.ExtendedOffsetTable
        offsets = list(struct.unpack(f"<{len(extended) // 8}Q", extended))
    if len(offsets) != count or any(b <= a for a, b in itertools.pairwise(offsets)) or offsets[:1] != [0]:
        # No table, or one of 32 bits in a file of more than 4 GB.
        offsets = [start - first for start in parse_fragments(handle)[1]][: 1 if count == 1 else None]
        if len(offsets) != count:
            raise ValueError(f"it has {len(offsets)} of {count} frames")
    return [(first + a, first + b) for a, b in zip(offsets, [*offsets[1:], end - first], strict=True)]


def _image(files: list[FrameFile]) -> FrameImage:
    header = files[0].header
    tile = int(header.Rows), int(header.Columns)
    shape = int(header.get("TotalPixelMatrixRows") or tile[0]), int(header.get("TotalPixelMatrixColumns") or tile[1])
    if min(*tile, *shape) < 1:
        raise ValueError("it has no pixels")
    groups = [file.header.get("PerFrameFunctionalGroupsSequence") or () for file in files]
    kind = header.get("DimensionOrganizationType")
    placed = kind == "TILED_SPARSE" or (kind is None and any(g and "PlanePositionSlideSequence" in g[0] for g in groups))
    frames, notes = _sparse(files, groups, tile) if placed else _full(files, shape, tile)
    total = header.get("InConcatenationTotalNumber")
    if total and len(files) < int(total):
        notes = (*notes, f"{total - len(files)} of {total} files of its concatenation are missing: their tiles are white.")
    return FrameImage(files, shape, tile, frames, notes)


def _full(files: list[FrameFile], shape: tuple[int, int], tile: tuple[int, int]) -> tuple[Any, tuple[str, ...]]:
    """Place frames by their number: columns change fastest, then rows, focal planes and optical paths."""
    header = files[0].header
    down, across = (-(-n // side) for n, side in zip(shape, tile, strict=True))
    planes = max(1, int(header.get("TotalPixelMatrixFocalPlanes") or 1))
    paths = max(1, int(header.get("NumberOfOpticalPaths") or 1))
    plane, notes = focal_plane(planes)
    first = plane * down * across
    frames = {}
    for number, file in enumerate(files):
        for n in range(len(file.spans)):
            place = file.first + n - first
            if 0 <= place < down * across:
                frames[divmod(place, across)] = (number, n)
    return frames, (*notes, *_first_path(paths))


def _sparse(files: list[FrameFile], groups: list[Any], tile: tuple[int, int]) -> tuple[Any, tuple[str, ...]]:
    """Place frames by the positions stated in the header."""
    found: list[tuple[float, str, tuple[int, int], tuple[int, int]]] = []
    for number, of_file in enumerate(groups):
        for n, group in enumerate(of_file):
            position = group.PlanePositionSlideSequence[0]
            x = int(position.ColumnPositionInTotalImagePixelMatrix) - 1
            y = int(position.RowPositionInTotalImagePixelMatrix) - 1
            if y % tile[0] or x % tile[1] or min(x, y) < 0:
                raise SlideError(
                    f"{files[number].path.name}: its tiles are not on a grid, frame {n + 1} at y={y}, x={x}", _EXPORT
                )
            path = group.get("OpticalPathIdentificationSequence")
            depth = round(float(position.get("ZOffsetInSlideCoordinateSystem") or 0), 6)
            found.append(
                (depth, str(path[0].get("OpticalPathIdentifier")) if path else "", (y // tile[0], x // tile[1]), (number, n))
            )
    depths, paths = sorted({depth for depth, *_ in found}), list(dict.fromkeys(path for _, path, *_ in found))
    plane, notes = focal_plane(len(depths), depths)
    frames: dict[tuple[int, int], tuple[int, int]] = {}
    for depth, path, place, where in found:
        if depth == depths[plane] and path == paths[0]:
            frames.setdefault(place, where)
    return frames, (*notes, *_first_path(len(paths)))


def _first_path(paths: int) -> tuple[str, ...]:
    return (f"It holds {paths} optical paths: the first is read.",) if paths > 1 else ()
