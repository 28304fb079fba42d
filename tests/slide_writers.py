"""Writers of small slides in the vendors' dialects of TIFF."""

# ruff: noqa: E501 - descriptions as the vendors write them

import struct

import imagecodecs
import numpy as np
import tifffile
from PIL import Image


def picture(height, width, seed=0):
    """Smooth coloured structure: survives JPEG well enough to be compared."""
    rng = np.random.default_rng(seed)
    small = rng.integers(60, 240, (max(2, height // 24), max(2, width // 24), 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def half(image):
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // 2, image.shape[0] // 2), Image.Resampling.BOX))


def tiles_of(image, side):
    h, w = image.shape[:2]
    padded = np.pad(image, ((0, -h % side), (0, -w % side), (0, 0)), mode="edge")
    for y in range(0, padded.shape[0], side):
        for x in range(0, padded.shape[1], side):
            yield np.ascontiguousarray(padded[y : y + side, x : x + side])


def aperio_jpeg2000(tile, *, ycbcr):
    planes = np.asarray(Image.fromarray(tile).convert("YCbCr")) if ycbcr else tile
    return imagecodecs.jpeg2k_encode(planes, codecformat="j2k", mct=not ycbcr, reversible=True)


def write_svs(path, image, levels=2, compression="jpeg", mpp="0.4990", side=64):
    """Aperio: tiled baseline, stripped thumbnail, tiled reduced levels, label, macro."""
    head = "Aperio Image Library v11.2.1\r\n46000x32914"
    description = f"{head} [0,100 46000x32814] (256x256) Q=30|AppMag = 20|MPP = {mpp}|Filename = x"

    def tiled(tif, part):
        if compression in (33003, 33005):
            data = (aperio_jpeg2000(t, ycbcr=compression == 33003) for t in tiles_of(part, side))
            options = {"photometric": "rgb" if compression == 33005 else "ycbcr"}
            if compression == 33003:
                options["subsampling"] = (1, 1)
            tif.write(
                data,
                shape=part.shape,
                dtype=np.uint8,
                tile=(side, side),
                compression=compression,
                description=description,
                metadata=None,
                **options,
            )
        else:
            tif.write(part, tile=(side, side), photometric="rgb", compression=compression, description=description, metadata=None)

    with tifffile.TiffWriter(path) as tif:
        tiled(tif, image)
        tif.write(half(half(image)), photometric="rgb", rowsperstrip=16, description=head, metadata=None)
        part = image
        for _ in range(1, levels):
            part = half(half(part))
            tiled(tif, part)
        tif.write(
            picture(50, 40, 7), photometric="rgb", compression="lzw", subfiletype=1, description=head + "\r\nlabel", metadata=None
        )
        tif.write(
            picture(40, 90, 8),
            photometric="rgb",
            compression="jpeg",
            subfiletype=9,
            description=head + "\r\nmacro",
            metadata=None,
        )
    return path


def write_scn(path, image, mpp=0.5, offset_yx=(3000, 5000)):
    """Leica: a macro of the whole collection and one scan somewhere on it; sizes in nanometres."""
    h, w = image.shape[:2]
    nm = round(mpp * 1000)
    macro = picture(60, 100, 9)
    whole = (60 * 20000, 100 * 20000)
    xml = f"""<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="x">
 <collection name="c" uuid="u" sizeX="{whole[1]}" sizeY="{whole[0]}">
  <image name="macro" uuid="a"><device model="Leica SCN400" version="1.4"/>
   <pixels sizeX="100" sizeY="60"><dimension sizeX="100" sizeY="60" r="0" ifd="0"/></pixels>
   <view sizeX="{whole[1]}" sizeY="{whole[0]}" offsetX="0" offsetY="0"/>
   <scanSettings><objectiveSettings><objective>0.6</objective></objectiveSettings>
   <illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>
  <image name="scan" uuid="b"><device model="Leica SCN400" version="1.4"/>
   <pixels sizeX="{w}" sizeY="{h}"><dimension sizeX="{w}" sizeY="{h}" r="0" ifd="1"/>
    <dimension sizeX="{w // 2}" sizeY="{h // 2}" r="1" ifd="2"/></pixels>
   <view sizeX="{w * nm}" sizeY="{h * nm}" offsetX="{offset_yx[1] * nm}" offsetY="{offset_yx[0] * nm}"/>
   <scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
   <illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>
 </collection></scn>"""
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for part in (macro, image, half(image)):
            tif.write(
                part,
                tile=(64, 64),
                photometric="rgb",
                compression="jpeg",
                description=xml.encode(),
                metadata=None,
                software="Leica",
            )
            xml = ""
    return path


def write_philips(path, image, mpp=0.25, side=64):
    """Philips: padded levels in a pyramid, sizes in the XML, label and macro in strips."""
    h, w = (-(-n // side) * side for n in image.shape[:2])
    padded = np.full((h, w, 3), 255, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    levels = [padded, half(padded)]
    representations = "".join(
        f"""<DataObject ObjectType="PixelDataRepresentation">
        <Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">"{mpp * 2**i / 1000}" "{mpp * 2**i / 1000}"</Attribute>
        <Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER" Group="0x1001" Element="0x8B02" PMSVR="IUInt16">{i}</Attribute>
        <Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_COLUMNS" Group="0x2001" Element="0x115E" PMSVR="IUInt32">{part.shape[1]}</Attribute>
        <Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_ROWS" Group="0x2001" Element="0x115D" PMSVR="IUInt32">{part.shape[0]}</Attribute>
        </DataObject>"""
        for i, part in enumerate(levels)
    )
    xml = f"""<?xml version="1.0" encoding="UTF-8" ?>
<DataObject ObjectType="DPUfsImport">
 <Attribute Name="DICOM_MANUFACTURER" Group="0x0008" Element="0x0070" PMSVR="IString">Hamamatsu</Attribute>
 <Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>
  <DataObject ObjectType="DPScannedImage">
   <Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI</Attribute>
   <Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">"{mpp / 1000}" "{mpp / 1000}"</Attribute>
   <Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" Element="0x8B01" PMSVR="IDataObjectArray"><Array>{representations}</Array></Attribute>
  </DataObject></Array></Attribute></DataObject>"""
    with tifffile.TiffWriter(path) as tif:
        for index, part in enumerate(levels):
            tif.write(
                part,
                tile=(side, side),
                photometric="rgb",
                compression="jpeg",
                description=xml if index == 0 else "level=1 mag=20 quality=80",
                software="Philips DP v1.0" if index == 0 else False,
                subfiletype=int(index > 0),
                metadata=None,
            )
        tif.write(picture(40, 90, 8), photometric="rgb", compression="jpeg", description="Macro", metadata=None, software=False)
    return path


def write_qptiff(path, image, mpp=0.5):
    """PerkinElmer: baseline, thumbnail, reduced levels by two, macro, label."""
    xml = """<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription>
    <ImageType>{}</ImageType><Objective>20x</Objective><SlideID>s1</SlideID></PerkinElmer-QPI-ImageDescription>"""
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER", "metadata": None, "photometric": "rgb"}

    def note(kind):
        return {"description": xml.format(kind).encode(), "software": "PerkinElmer-QPI"}

    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(image, tile=(64, 64), compression="jpeg", **note("FullResolution"), **resolution)
        tif.write(picture(30, 20, 3), **note("Thumbnail"), **resolution)
        tif.write(half(image), tile=(64, 64), compression="jpeg", **note("ReducedResolution"), **resolution)
        tif.write(picture(33, 77, 4), **note("Overview"), **resolution)
        tif.write(picture(22, 21, 5), **note("Label"), **resolution)
    return path


def write_ome_tiff(path, image, mpp=0.25, compression="zlib", **options):
    """OME-TIFF with its pyramid in SubIFDs."""
    with tifffile.TiffWriter(path, ome=True) as tif:
        metadata = {
            "axes": "YXS",
            "PhysicalSizeX": mpp,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": mpp,
            "PhysicalSizeYUnit": "µm",
        }
        shared = {"tile": (64, 64), "photometric": "rgb", "compression": compression, **options}
        tif.write(image, subifds=2, metadata=metadata, **shared)
        part = half(image)
        for _ in range(2):
            tif.write(part, subfiletype=1, **shared)
            part = half(part)
    return path


def linear_profile(space=b"RGB "):
    """An ICC v2 profile of sRGB's primaries without its gamma curve."""

    def xyz(*values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    tags = {
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.4360, 0.2225, 0.0139),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
        **{name: b"curv\0\0\0\0" + struct.pack(">I", 0) for name in (b"rTRC", b"gTRC", b"bTRC")},
    }
    table, data, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", at + len(data), len(value))
        data += value
    head = struct.pack(">I4sI4s4s4s12s4s", at + len(data), b"lcms", 0x02100000, b"scnr", space, b"XYZ ", bytes(12), b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + data
