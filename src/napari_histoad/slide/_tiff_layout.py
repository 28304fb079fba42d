"""The pages of a TIFF that make up the pyramid, and its metadata, by the rules of each vendor.

tifffile groups the pages into series; here one of them is chosen and its metadata are read.
"""

from __future__ import annotations

import math
import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
import numpy as np
import tifffile
from defusedxml import DefusedXmlException

from napari_histoad.slide._base import CHOOSE_CHANNELS, UnsupportedVariantError
from napari_histoad.slide._focus import focal_plane
from napari_histoad.slide._units import length_um, size_um, unit_um

if TYPE_CHECKING:
    from collections.abc import Sequence
    from xml.etree.ElementTree import Element

_MOST_PAGES, _MOST_TAGS = 5000, 4096
_UNIT_UM = {2: 25400.0, 3: 10000.0, 4: 1000.0, 5: 1.0}
"""Values of the tag ResolutionUnit: inch, centimetre, and TIFF/EP's millimetre and micrometre."""
_INCH = 2
_APERIO_Z = re.compile(r"\|\s*OffsetZ\s*=\s*(-?[\d.]*\d)\s*(?=\||$)")
_APERIO_FIELD = re.compile(r"\|\s*([^=|]+?)\s*=\s*([^|]*?)\s*(?=\||$)")
_NDPI_FORMAT, _NDPI_FLUORESCENCE, _NDPI_MAGNIFICATION, _NDPI_Z_NM, _NDPI_PROPERTIES = 65420, 65434, 65421, 65424, 65449
_XMP = 700
_PLANAR, _BLACK_IS_ZERO = 2, 1
_RED_GREEN_BLUE = [0xFF0000, 0x00FF00, 0x0000FF]
_OTHERS = {"label", "macro", "thumbnail", "map", "overview"}


@dataclass(frozen=True)
class TiffLayout:
    """The pyramid and the metadata of a TIFF."""

    format: str
    pages: list[tifffile.TiffPage]  # candidates for levels, finest first; some may be other pictures
    mpp_yx: tuple[float, float] | None  # µm per level-0 pixel as stated by the file
    properties: dict[str, str] = field(default_factory=dict)
    associated: dict[str, int] = field(default_factory=dict)  # pages of label, macro and thumbnail
    notes: list[str] = field(default_factory=list)  # sentences for users about what was chosen
    planes: list[list[tifffile.TiffPage | tifffile.TiffFrame]] = field(default_factory=list)  # its red, green, blue page


def check_chain(handle: BinaryIO) -> None:
    """Raise ValueError if the list of pages is circular, endless or points past the end of the file, before it is parsed."""
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    head = handle.read(16).ljust(16, b"\0")
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    pointer, counter, entry_bytes = (order + "Q", order + "Q", 20) if big else (order + "I", order + "H", 12)
    (offset,) = struct.unpack_from(pointer, head, 8 if big else 4)
    if not big and offset < size and _NDPI_FORMAT in _tags_at(handle, offset, order):
        pointer = order + "Q"  # NDPI is a classic TIFF with wide pointers between its pages
        (offset,) = struct.unpack_from(pointer, head, 4)
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise ValueError("its list of pages is circular")
        seen.add(offset)
        if len(seen) > _MOST_PAGES:
            raise ValueError(f"it lists more than {_MOST_PAGES:,} pages")
        if offset >= size:
            raise ValueError(f"page {len(seen)} is past its end")
        (count,) = _unpack(handle, offset, counter)
        if count > _MOST_TAGS:
            raise ValueError(f"page {len(seen)} lists {count:,} tags")
        (offset,) = _unpack(handle, offset + struct.calcsize(counter) + count * entry_bytes, pointer)


def _unpack(handle: BinaryIO, offset: int, form: str) -> tuple[int, ...]:
    """Return numbers read from the file; zeros past its end."""
    handle.seek(offset)
    size = struct.calcsize(form)
    return struct.unpack(form, handle.read(size).ljust(size, b"\0"))


def _tags_at(handle: BinaryIO, offset: int, order: str) -> set[int]:
    (count,) = _unpack(handle, offset, order + "H")
    data = handle.read(12 * count)
    return {struct.unpack_from(order + "H", data, i)[0] for i in range(0, len(data) - 11, 12)}


def read_layout(tif: tifffile.TiffFile) -> TiffLayout:
    """Return the pyramid and metadata of an open TIFF.

    Raises `UnsupportedVariantError` for a kind of TIFF that is not decoded here, ValueError if the file is broken.
    """
    if not tif.pages:
        raise ValueError("it lists no image")
    if _tiles_overlap(tif):
        raise UnsupportedVariantError("its tiles overlap, as Ventana's and Trestle's scanners write them")
    if tif.is_scn:
        return _scn(tif)
    if not tif.series:
        raise ValueError("it lists no image")
    layout = _of_vendor(tif)
    chosen = next((s for s in tif.series if s.keyframe is layout.pages[0]), None)
    notes = layout.notes or ([] if chosen is None else _first_of(chosen))
    return replace(layout, notes=notes)


def _of_vendor(tif: tifffile.TiffFile) -> TiffLayout:
    if tif.is_svs:
        return _svs(tif)
    if tif.is_ndpi:
        return _ndpi(tif)
    if tif.is_philips:
        return _philips(tif)
    if tif.is_qpi:
        return _qptiff(tif)
    if tif.is_ome:
        return _ome(tif)
    return _plain(tif)


def _tiles_overlap(tif: tifffile.TiffFile) -> bool:
    """Return whether a Trestle or Ventana scanner wrote the file; Ventana's name is on one of the first pages."""
    if tif.pages.first.software.startswith("MedScan"):
        return True
    pages = [page for page in tif.pages[:3] if isinstance(page, tifffile.TiffPage)]
    return any("<iScan" in str(page.tags.valueof(_XMP)) for page in pages)


def _plain(tif: tifffile.TiffFile) -> TiffLayout:
    series = _largest(tif)
    first, focus = _in_focus(tif, series)
    pages = _pyramid(series, first)
    # tifffile makes levels that do not shrink by exactly two, three or four series of their own; some writers do not mark levels.
    alone = len(pages) == 1
    others = [page for other in tif.series if other is not series for page in _pyramid(other)]
    others = [page for page in others if page.is_tiled and (alone or page.is_reduced)]
    pages = [pages[0], *sorted([*pages[1:], *others], key=lambda page: -page.imagewidth)]
    page = pages[0]
    properties = {} if not page.description else {"ImageDescription": page.description[:2000]}
    return TiffLayout(
        "tiled TIFF" if page.is_tiled else "TIFF in strips",
        pages,
        stated_mpp(tif, series),
        properties | _properties(page),
        notes=[*focus, *_first_of(series)],
    )


def _svs(tif: tifffile.TiffFile) -> TiffLayout:
    series = next((s for s in tif.series if s.name == "Baseline"), tif.series[0])
    offsets = [_APERIO_Z.search(getattr(page, "description", "")) for page in series.pages]
    first, focus = _in_focus(tif, series, [float(z[1]) for z in offsets if z is not None])
    page = series.keyframe
    properties = dict(_APERIO_FIELD.findall(page.description or ""))
    stated = {name.lower(): value for name, value in properties.items()}.get("mpp", "")
    mpp = length_um(re.split(r"\s*(?:/|per)\s*", stated)[0])
    pages, named = _pyramid(series, first), _named(tif, series)
    second = tif.pages[named["thumbnail"]] if "thumbnail" in named else None
    if isinstance(second, tifffile.TiffPage) and second.is_tiled:  # thumbnails are in strips, so this file has none
        del named["thumbnail"]
        pages = [pages[0], *sorted([*pages[1:], second], key=lambda page: -page.imagewidth)]
    return TiffLayout(
        "Aperio SVS",
        pages,
        _resolution(page) if mpp is None else (mpp, mpp),
        properties | _properties(page),
        named,
        [*focus, *_first_of(series)],
    )


def _ndpi(tif: tifffile.TiffFile) -> TiffLayout:
    pages, notes = _focused(tif)
    page = pages[0]
    fluorescence = str(page.tags.valueof(_NDPI_FLUORESCENCE) or "").strip()
    if fluorescence:
        raise _fluorescence(fluorescence)
    text = str(page.tags.valueof(_NDPI_PROPERTIES) or "")
    properties = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    properties["Magnification"] = f"{page.tags.valueof(_NDPI_MAGNIFICATION):g}"
    about = properties | _properties(page)
    return TiffLayout("Hamamatsu NDPI", pages, _resolution(page), about, _named(tif, None), notes)


def _focused(tif: tifffile.TiffFile) -> tuple[list[tifffile.TiffPage], list[str]]:
    """Return the levels of one focal plane of an NDPI file, and a note if there are several planes."""
    planes: dict[int, list[tifffile.TiffPage]] = {}
    for page in tif.pages:
        if isinstance(page, tifffile.TiffPage) and page.tags.valueof(_NDPI_MAGNIFICATION, default=0) > 0:
            planes.setdefault(int(page.tags.valueof(_NDPI_Z_NM, default=0)), []).append(page)
    if not planes:
        return _pyramid(tif.series[0]), []
    heights = sorted(planes)
    plane, notes = focal_plane(len(heights), [z / 1000 for z in heights])
    return sorted(planes[heights[plane]], key=lambda page: -page.imagewidth), list(notes)


def _scn(tif: tifffile.TiffFile) -> TiffLayout:
    root = _xml(tif.pages.first.description)
    scans, others = [], {}
    images = [element for element in root.iter() if element.tag.endswith("}image")]
    collection = next(element for element in root.iter() if element.tag.endswith("}collection"))
    whole = (collection.get("sizeX"), collection.get("sizeY"))
    for image in images:
        view = next(element for element in image if element.tag.endswith("}view"))
        planes: dict[int, list[tuple[int, int]]] = {}
        for element in image.iter():
            if element.tag.endswith("}dimension") and int(element.get("c", 0)) == 0:
                planes.setdefault(int(element.get("z", 0)), []).append((int(element.get("r", 0)), int(element.attrib["ifd"])))
        if not planes:
            raise UnsupportedVariantError("its SCN collection has an unknown structure")
        plane, focus = focal_plane(len(planes))
        pages = [
            page for _, ifd in sorted(planes[sorted(planes)[plane]]) if isinstance(page := tif.pages[ifd], tifffile.TiffPage)
        ]
        if (view.get("sizeX"), view.get("sizeY")) == whole:
            others["macro"] = pages[0].index
        else:
            scans.append((image, view, pages, focus))
    if len(scans) != 1:
        several = f"{len(scans)} scans"
        raise UnsupportedVariantError(
            f"it holds {several} on one canvas", notes=[f"It holds {several}: they are read as one canvas."]
        )
    ((scan, view, pages, focus),) = scans
    page = pages[0]
    mpp = (float(view.attrib["sizeY"]) / 1000 / page.imagelength, float(view.attrib["sizeX"]) / 1000 / page.imagewidth)
    properties = {}
    for element in scan.iter():
        name = element.tag.rsplit("}", 1)[-1]
        if name in ("objective", "creationDate", "illuminationSource") and element.text:
            properties[name] = element.text
        elif name == "device":
            properties[name] = f"{element.get('model', '')} {element.get('version', '')}".strip()
    if properties.get("illuminationSource") == "fluorescence":
        raise _fluorescence(properties.get("objective", "no stain"))
    return TiffLayout("Leica SCN", pages, mpp, properties | _properties(page), others, list(focus))


def _philips(tif: tifffile.TiffFile) -> TiffLayout:
    root = _xml(tif.philips_metadata or "")
    wanted = {"DICOM_MANUFACTURER", "DICOM_DEVICE_SERIAL_NUMBER", "DICOM_ACQUISITION_DATETIME", "PIM_DP_SCANNER_RACK_NUMBER"}
    properties, spacing = {}, None
    for attribute in root.iter("Attribute"):
        name, text = attribute.get("Name", ""), (attribute.text or "").strip()
        if name in wanted and text:
            properties[name] = text.strip('"')
        elif name == "DICOM_PIXEL_SPACING" and spacing is None:
            spacing = size_um(*([length_um(v, "mm") for v in text.replace('"', "").split()] + [None, None])[:2])
    series = next((s for s in tif.series if s.name == "Baseline"), tif.series[0])
    return TiffLayout("Philips TIFF", _pyramid(series), spacing, properties | _properties(series.keyframe), _named(tif, series))


def _qptiff(tif: tifffile.TiffFile) -> TiffLayout:
    series = tif.series[0]
    page = series.keyframe
    if page.samplesperpixel < 3:
        raise _fluorescence(f"{len(series.pages)} channels")
    properties = {}
    if (page.description or "").lstrip().startswith("<"):
        root = _xml(page.description)
        for name in ("Objective", "SlideID", "AcquisitionSoftware", "ExposureTime"):
            element = root.find(f".//{name}")
            if element is not None and element.text:
                properties[name] = element.text
    return TiffLayout(
        "PerkinElmer QPTIFF", _pyramid(series), _resolution(page), properties | _properties(page), _named(tif, series)
    )


def _ome(tif: tifffile.TiffFile) -> TiffLayout:
    coloured = [s for s in tif.series if s.keyframe.samplesperpixel >= 3]
    if not coloured:
        return _ome_in_planes(tif)
    series = max(coloured, key=lambda s: s.keyframe.imagelength * s.keyframe.imagewidth)
    named = _named(tif, series)
    unnamed = len([s for s in coloured if s.keyframe.index not in named.values()])
    first, focus = _in_focus(tif, series, _heights(tif, series))
    notes = [*focus, *_first_of(series)]
    if unnamed > 1:
        title = f", {series.name}," if series.name else ""
        notes.append(f"It holds {unnamed} pictures: the largest{title} is read.")
    return TiffLayout("OME-TIFF", _pyramid(series, first), stated_mpp(tif, series), _properties(series.keyframe), named, notes)


def _ome_in_planes(tif: tifffile.TiffFile) -> TiffLayout:
    """Return the layout of three channels of 8 bits, which are red, green and blue unless their colours say otherwise."""
    series = max(tif.series, key=lambda s: s.keyframe.imagelength * s.keyframe.imagewidth)
    sizes = dict(zip(series.axes, series.shape, strict=False))
    channels, page = sizes.get("C", 1), series.keyframe
    order = None
    if channels == 3 and page.dtype == np.uint8 and page.photometric == _BLACK_IS_ZERO:
        order = _rgb_order([e for e in (_image_of(tif, series) or ()) if e.tag.endswith("}Channel")])
    if order is None:
        raise UnsupportedVariantError(f"it holds {channels} grey channels, not RGB", final=True, remedy=CHOOSE_CHANNELS)
    stack = [axis for axis in series.axes if axis not in "YXS"]
    step = math.prod(sizes[axis] for axis in stack[stack.index("C") + 1 :])
    first, focus = _in_focus(tif, series, _heights(tif, series))
    listed = [[level.pages[first + channel * step] for channel in order] for level in series.levels]
    planes = [[plane for plane in level if plane is not None] for level in listed]
    if any(len(level) < len(order) for level in planes):
        raise UnsupportedVariantError("one of its channels is missing", final=True, remedy=CHOOSE_CHANNELS)
    notes = ["Its three channels are read as red, green and blue.", *focus, *_first_of(series, but="YXSZC")]
    return TiffLayout(
        "OME-TIFF", _pyramid(series), stated_mpp(tif, series), _properties(page), _named(tif, series), notes, planes
    )


def _rgb_order(channels: list[Element]) -> list[int] | None:
    """Return the numbers of the red, green and blue channels; None if they have other colours or are fluorescence."""
    fluorescent = ("Fluor", "EmissionWavelength", "ExcitationWavelength")
    if any(channel.get(name) for channel in channels for name in fluorescent):
        return None
    if any("fluorescence" in channel.get("ContrastMethod", "").lower() for channel in channels):
        return None
    colours = [int(channel.get("Color", "-1")) % 2**32 >> 8 for channel in channels]
    if len(set(colours)) <= 1:
        return [0, 1, 2]
    return [colours.index(wanted) for wanted in _RED_GREEN_BLUE] if sorted(colours) == sorted(_RED_GREEN_BLUE) else None


def _physical_size(pixels: Element) -> tuple[float, float] | None:
    return size_um(*(length_um(pixels.get(f"PhysicalSize{a}"), pixels.get(f"PhysicalSize{a}Unit", "µm")) for a in "YX"))


def _image_of(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Element | None:
    """Return OME's Pixels element of a series; None if it is ambiguous."""
    images = [element for element in _xml(tif.ome_metadata or "").iter() if element.tag.endswith("}Image")]
    if len(images) != len(tif.series):
        return None
    return next(element for element in images[tif.series.index(series)] if element.tag.endswith("}Pixels"))


def stated_mpp(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[float, float] | None:
    """Return µm per pixel (y, x) of a series, from OME's or ImageJ's metadata or the TIFF's resolution."""
    pixels = _image_of(tif, series) if tif.is_ome else None
    if pixels is not None:
        return _physical_size(pixels) or _resolution(series.keyframe)
    if tif.is_imagej:
        about = tif.imagej_metadata or {}
        units = [unit_um(str(about.get(name) or about.get("unit") or "")) for name in ("yunit", "unit")]
        if any(units):  # then the tags are pixels per this unit, whatever ResolutionUnit says
            return _resolution(series.keyframe, units)
    return _resolution(series.keyframe)


# -- shared


def _in_focus(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, z_um: Sequence[float] = ()) -> tuple[int, tuple[str, ...]]:
    """Return the number of the first image in the focal plane to read, and a note if there are several planes."""
    sizes = dict(zip(series.axes, series.shape, strict=False))
    plane, notes = focal_plane(sizes.get("Z", 1), z_um)
    stack = [axis for axis in series.axes if axis not in "YXS"]
    first = plane * math.prod(sizes[axis] for axis in stack[stack.index("Z") + 1 :]) if plane else 0
    there = all(first < len(level.pages) and _is_of(tif, level.pages[first]) for level in series.levels)
    return (first, notes) if there else (0, (f"It holds {sizes['Z']} focal planes, not all in this file: the first is read.",))


def _is_of(tif: tifffile.TiffFile, page: tifffile.TiffPage | tifffile.TiffFrame | None) -> bool:
    """Return whether an image exists and is in this file: an OME-TIFF may be spread over several."""
    return page is not None and page.parent is tif


def _heights(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> list[float]:
    """Return the z positions of the focal planes in µm from OME's metadata; empty if incomplete or without a unit of length."""
    found: dict[int, float] = {}
    for element in _image_of(tif, series) or ():
        if element.tag.endswith("}Plane"):
            with suppress(ValueError):
                um = unit_um(element.get("PositionZUnit"))
                if um is not None:
                    found.setdefault(int(element.get("TheZ", "")), float(element.get("PositionZ", "")) * um)
    return [found[z] for z in sorted(found)]


def _first_of(series: tifffile.TiffPageSeries, but: str = "YXSZ") -> list[str]:
    """Return a note for each axis along which only the first image is read; axes in ``but`` are left out."""
    kinds = {"T": "time points", "C": "colour channels"}
    others = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=False) if axis not in but and n > 1]
    planar = series.keyframe.planarconfig == _PLANAR
    return [
        f"It holds {n} {kinds.get(axis, 'pictures of one size')}: the first is read."
        for axis, n in others
        if not (planar and axis == "C")
    ]


def _fluorescence(what: str) -> UnsupportedVariantError:
    reason = f"it is a fluorescence scan ({what}), not a stained section in transmitted light"
    return UnsupportedVariantError(reason, final=True, remedy=f"use the slide's brightfield scan, or {CHOOSE_CHANNELS}")


def _largest(tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    return max(tif.series, key=lambda s: s.keyframe.imagelength * s.keyframe.imagewidth * (s.keyframe.samplesperpixel >= 3))


def _pyramid(series: tifffile.TiffPageSeries, first: int = 0) -> list[tifffile.TiffPage]:
    """Return the levels of an image of a series, by default the first."""
    chosen = [level.pages[first] if first else level.keyframe for level in series.levels]
    return [page if isinstance(page, tifffile.TiffPage) else page.aspage() for page in chosen if page is not None]


def _named(tif: tifffile.TiffFile, main: tifffile.TiffPageSeries | None) -> dict[str, int]:
    found = {}
    for series in tif.series:
        name = series.name.lower().removesuffix(" image")
        if series is not main and name in _OTHERS:
            found[name] = series.keyframe.index
    return found


def _resolution(page: tifffile.TiffPage, units: list[float | None] | None = None) -> tuple[float, float] | None:
    """Return µm per pixel (y, x) from the resolution tags; TIFF's default unit is the inch."""
    unit = _UNIT_UM.get(int(page.tags.valueof("ResolutionUnit", default=_INCH)))
    sizes = []
    for name, um in zip(("YResolution", "XResolution"), units or [unit, unit], strict=True):
        value = page.tags.valueof(name)
        known = um is not None and value is not None and all(value)
        sizes.append(um * value[1] / value[0] if known else None)
    return size_um(*sizes)


def _properties(page: tifffile.TiffPage) -> dict[str, str]:
    properties = {}
    for name in ("Make", "Model", "Software", "DateTime"):
        value = page.tags.valueof(name)
        if value:
            properties[name] = str(value)
    properties["Compression"] = tifffile.COMPRESSION(page.compression).name
    if page.is_tiled:
        properties["Tile"] = f"{page.tilelength} x {page.tilewidth}"
    return properties


def _xml(text: str) -> Element:
    try:
        root: Element = defusedxml.ElementTree.fromstring(text)
    except (ParseError, DefusedXmlException) as err:
        raise ValueError(f"its description is not valid XML ({err})") from err
    return root
