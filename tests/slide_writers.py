"""Writers of small slides in the vendors' formats."""

# ruff: noqa: E501 - descriptions as the vendors write them

import io
import sqlite3
import struct
from contextlib import closing

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


def jpeg2000_of_components(components, steps):
    """A codestream of 8-bit components of which each has its own step (y, x): none of the writers at hand makes one.

    Component by component (CPRL) the packets are those of single components, one after the other.
    """
    height, width = components[0].shape
    headers, packets = [], b""
    for component in components:
        code = bytes(imagecodecs.jpeg2k_encode(component, codecformat="j2k", reversible=True, resolutions=2))
        at, segments = 2, []
        while code[at : at + 2] != b"\xff\x93":
            end = at + 2 + struct.unpack_from(">H", code, at + 2)[0]
            segments.append((code[at : at + 2], code[at + 4 : end]))
            at = end
        headers.append(segments)
        packets += code[at + 2 : -2]
    out = b"\xff\x4f"
    for kind, body in headers[0]:
        changed = bytearray(body)
        if kind == b"\xff\x51":  # SIZ
            for place in (2, 18):
                struct.pack_into(">II", changed, place, width, height)
            struct.pack_into(">H", changed, 34, len(components))
            changed[36:] = b"".join(bytes([7, x, y]) for y, x in steps)
        elif kind == b"\xff\x52":  # COD: component by component, no colour transform
            changed[1], changed[4] = 4, 0
        elif kind == b"\xff\x90":  # SOT
            struct.pack_into(">I", changed, 2, len(packets) + 14)
        out += kind + struct.pack(">H", len(changed) + 2) + changed
    return out + b"\xff\x93" + packets + b"\xff\xd9"


def subsampled_jpeg2000(tile, step, *, ycbcr=True):
    """A tile whose second and third component have one pixel for ``step`` (y, x)."""
    planes = np.asarray(Image.fromarray(tile).convert("YCbCr")) if ycbcr else tile
    rest = [np.ascontiguousarray(planes[:: step[0], :: step[1], c]) for c in (1, 2)]
    return jpeg2000_of_components([np.ascontiguousarray(planes[..., 0]), *rest], [(1, 1), step, step])


def write_encoded(path, image, encode, compression, photometric, side=64, levels=1, **options):
    """A TIFF of tiles that ``encode`` makes; ``photometric`` is written as it is, whatever tifffile would rather have."""
    with tifffile.TiffWriter(path) as tif:
        for index in range(levels):
            tif.write(
                (encode(tile) for tile in tiles_of(image, side)),
                shape=image.shape,
                dtype=np.uint8,
                tile=(side, side),
                compression=compression,
                photometric="rgb",
                subfiletype=int(index > 0),
                metadata=None,
                **options,
            )
            image = half(image)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags["PhotometricInterpretation"].overwrite(photometric)
    return path


def without_tiles(path, page, tiles, tag="TileByteCounts"):
    """Let a TIFF lack tiles of a page, as scanners leave out what they did not write: byte count (or offset) 0."""
    with tifffile.TiffFile(path, mode="r+b") as tif:
        values = tif.pages[page].tags[tag]
        counts = list(values.value)
        for tile in tiles:
            counts[tile] = 0
        values.overwrite(counts)
    return path


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


def write_scn(path, image, mpp=0.5, offset_yx=(3000, 5000), planes=()):
    """Leica: a macro of the whole collection and one scan somewhere on it; sizes in nanometres; ``planes`` are further foci."""
    h, w = image.shape[:2]
    nm = round(mpp * 1000)
    macro = picture(60, 100, 9)
    whole = (60 * 20000, 100 * 20000)
    foci = "".join(
        f'<dimension sizeX="{w // (r + 1)}" sizeY="{h // (r + 1)}" r="{r}" z="{z}" ifd="{2 * z + 1 + r}"/>'
        for z in range(1, len(planes) + 1)
        for r in (0, 1)
    )
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
    <dimension sizeX="{w // 2}" sizeY="{h // 2}" r="1" ifd="2"/>{foci}</pixels>
   <view sizeX="{w * nm}" sizeY="{h * nm}" offsetX="{offset_yx[1] * nm}" offsetY="{offset_yx[0] * nm}"/>
   <scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
   <illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>
 </collection></scn>"""
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for part in (macro, *(level for plane in (image, *planes) for level in (plane, half(plane)))):
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


def write_ndpi(path, pages, mpp=0.5):
    """Hamamatsu: a classic TIFF with wide pointers between its pages; ``pages`` are (image, magnification, z in nm)."""
    data, entry_at = bytearray(b"II*\0" + bytes(8)), 4

    def put(body):
        data.extend(bytes(len(data) % 2) + body)
        return len(data) - len(body)

    for image, magnification, z in pages:
        height, width = image.shape[:2]
        jpeg = _jpeg(image)
        strip, bits, make = put(jpeg), put(struct.pack("<3H", 8, 8, 8)), put(b"Hamamatsu\0")
        resolution = put(struct.pack("<2I", round(1e4 * abs(magnification) / pages[0][1] / mpp), 1))
        entries = [
            *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, 7), (262, 3, 1, 6), (271, 2, 10, make)),
            (273, 4, 1, strip),
            *((277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(jpeg)), (282, 5, 1, resolution), (283, 5, 1, resolution)),
            *((296, 3, 1, 3), (530, 3, 2, 0x10001), (65420, 4, 1, 1)),
            (65421, 11, 1, struct.unpack("<I", struct.pack("<f", magnification))[0]),
            (65424, 9, 1, z % 2**32),
        ]
        directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        begin = put(directory + bytes(8) + bytes(4 * len(entries)))
        struct.pack_into("<Q", data, entry_at, begin)
        entry_at = begin + len(directory)
    path.write_bytes(data)
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


def _jpeg(image, **options):
    buffer = io.BytesIO()
    colour = {"subsampling": 0} if image.ndim == 3 else {}
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=95, **colour, **options)
    return buffer.getvalue()


def write_mrxs(path, image, mpp=0.25, side=64, grid=(10, 12), corner=(2, 4), missing=(), preview=True):
    """3DHISTECH: a folder of JPEG tiles at places of a larger grid, by an index; two levels, ``missing`` (row, column) of the first."""
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(_jpeg(half(image)) if preview else b"")
    data, pages = bytearray(16), []
    for level, part in enumerate((image, half(image))):
        across, step, entries = -(-part.shape[1] // side), 2**level, []
        for number, tile in enumerate(tiles_of(part, side)):
            row, column = divmod(number, across)
            if level == 0 and (row, column) in missing:
                continue
            body = _jpeg(tile)
            entries.append(((corner[0] + row * step) * grid[1] + corner[1] + column * step, len(data), len(body), 0))
            data += body
        pages.append(entries)
    (folder / "Data0000.dat").write_bytes(data)
    slide_id = "0123456789abcdef0123456789ABCDEF"
    index = bytearray(b"01.02" + slide_id.encode())
    roots = len(index)
    index += struct.pack("<2i", roots + 8, roots + 8 + 4 * len(pages))
    start = len(index) + 4 * len(pages) + 16  # the table of levels, and one of other records that is empty
    body = bytearray()
    for entries in pages:
        index += struct.pack("<i", start + len(body))
        body += struct.pack("<4i", 0, start + len(body) + 8, len(entries), 0)
        for entry in entries:
            body += struct.pack("<4i", *entry)
    (folder / "Index.dat").write_bytes(index + bytes(16) + body)
    lines = ["[GENERAL]", f"SLIDE_ID={slide_id}", f"IMAGENUMBER_X={grid[1]}", f"IMAGENUMBER_Y={grid[0]}"]
    lines += ["OBJECTIVE_MAGNIFICATION=40", "[HIERARCHICAL]", "HIER_COUNT=1", "NONHIER_COUNT=0", "INDEXFILE=Index.dat"]
    lines += ["HIER_0_NAME=Slide zoom level", f"HIER_0_COUNT={len(pages)}"]
    lines += [f"HIER_0_VAL_{k}_SECTION=LAYER_0_LEVEL_{k}_SECTION" for k in range(len(pages))]
    lines += ["[DATAFILE]", "FILE_COUNT=1", "FILE_0=Data0000.dat"]
    for k in range(len(pages)):
        lines += [f"[LAYER_0_LEVEL_{k}_SECTION]", "OVERLAP_X=0", "OVERLAP_Y=0", f"IMAGE_CONCAT_FACTOR={min(k, 1)}"]
        lines += [f"MICROMETER_PER_PIXEL_{axis}={mpp * 2**k}" for axis in "XY"]
        lines += ["IMAGE_FORMAT=JPEG", "IMAGE_FILL_COLOR_BGR=16777215", f"DIGITIZER_WIDTH={side}", f"DIGITIZER_HEIGHT={side}"]
    (folder / "Slidedat.ini").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def write_vms(path, image, mpp=0.5):
    """Hamamatsu: a table of contents beside JPEGs that can be entered at their restart markers."""
    small = half(half(image))
    for name, part in (("slide.jpg", image), ("map.jpg", small), ("macro.jpg", small)):
        path.with_name(name).write_bytes(_jpeg(part, restart_marker_blocks=part.shape[1] // 32))
    size = {"PhysicalWidth": 1000 * mpp * image.shape[1], "PhysicalHeight": 1000 * mpp * image.shape[0]}
    lines = ["[Virtual Microscope Specimen]", "NoLayers=1", "NoJpegColumns=1", "NoJpegRows=1", "SourceLens=20"]
    lines += ["ImageFile=slide.jpg", "MapFile=map.jpg", "MacroImage=macro.jpg"]
    lines += [f"{name}={value:.0f}" for name, value in size.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def _overlapping(image, side, overlap):
    """Return tiles (rows, columns, side, side, 3) that lie ``overlap`` (y, x) over their neighbours; what is left over is cut off."""
    step_y, step_x = side - overlap[0], side - overlap[1]
    rows, columns = (image.shape[0] - overlap[0]) // step_y, (image.shape[1] - overlap[1]) // step_x
    return np.stack(
        [[image[r * step_y : r * step_y + side, c * step_x : c * step_x + side] for c in range(columns)] for r in range(rows)]
    )


def _side_by_side(tiles):
    rows, columns, side = tiles.shape[:3]
    return tiles.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)


def write_trestle(path, image, mpp=0.5, side=64, overlap=8):
    """Trestle: a TIFF whose tiles overlap, as its description says, and whose resolution is in µm per pixel."""
    with tifffile.TiffWriter(path) as tif:
        for level in (image, half(image)):
            tif.write(
                _side_by_side(_overlapping(level, side, (overlap, overlap))),
                tile=(side, side),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 95},
                description=f"Background Color=FFFFFF;Objective Power=20;OverlapsXY= {overlap} {overlap} {overlap} {overlap};",
                software="MedScan for Windows",
                resolution=(mpp, mpp),
                metadata=None,
            )
    return path


def write_bif(path, image, mpp=0.465, side=64, overlap=8):
    """Ventana: tiles of a row overlap; joints between them are listed by numbers that run back and forth from the bottom row up."""
    tiles = _overlapping(image, side, (0, overlap))
    rows, columns = tiles.shape[:2]

    def number(row, column):
        up = rows - 1 - row
        return up * columns + (columns - 1 - column if up % 2 else column) + 1

    def joint(direction, one, other, size):
        numbers = f'Tile1="{number(*one)}" Tile2="{number(*other)}"'
        return f'<TileJointInfo FlagJoined="1" Confidence="99" Direction="{direction}" {numbers} OverlapX="{size}" OverlapY="0"/>'

    joints = [joint("RIGHT", (r, c), (r, c + 1), overlap) for r in range(rows) for c in range(columns - 1)]
    joints += [joint("UP", (r, c), (r - 1, c), 0) for r in range(1, rows) for c in range(columns)]
    area = f'NumRows="{rows}" NumCols="{columns}" Pos-X="0" Pos-Y="0"'
    stitching = (
        f'<EncodeInfo Ver="2"><SlideInfo><AoiInfo XIMAGESIZE="{side}" YIMAGESIZE="{side}" {area}/></SlideInfo>'
        f'<SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" Width="{side}" Height="{side}" {area}>{"".join(joints)}</ImageInfo>'
        '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )

    def xmp(text):
        return [(700, 1, len(text), text.encode(), True)]

    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        about = xmp(f'<iScan Magnification="20" ScanRes="{mpp}" UnitNumber="1"/>')
        tif.write(
            picture(60, 40),
            photometric="rgb",
            description="Label Image",
            metadata=None,
            software="ScanOutputManager",
            extratags=about,
        )
        tif.write(
            _side_by_side(tiles),
            tile=(side, side),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": 95},
            description="level=0 mag=20 quality=90",
            metadata=None,
            extratags=xmp(stitching),
        )
    return path


_SAKURA_TABLES = {
    "DataManagerSQLiteConfigXPO": "TableName",
    "Pixels": "id, size, data",
    "SVSlideDataXPO": "SlideId, Date, Creator, Description, Keywords, DiagnosisCode, m_labelScan, m_overviewScan",
    "SVHRScanDataXPO": "ParentSlide, ScanId, Date, Name, Description, ResolutionMmPerPix, NominalLensMagnification, FocussingMethod, ThumbnailImage",
    "SVScannedImageDataXPO": "Image",
}


def write_sakura(path, image, mpp=0.5, side=64):
    """Sakura: an SQLite table of tiles, a grey JPEG for each colour of each."""
    small = half(image)
    with closing(sqlite3.connect(path)) as db, db:

        def add(table, *values):
            places = ", ".join("?" * len(values))
            columns = ", ".join(_SAKURA_TABLES[table].split(", ")[: len(values)])
            db.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", values)

        def add_data(name, data):
            add("Pixels", name, len(data), data)

        for table, columns in _SAKURA_TABLES.items():
            db.execute(f"CREATE TABLE {table} (OID INTEGER PRIMARY KEY, {columns})")
        add("DataManagerSQLiteConfigXPO", "Pixels")
        add_data("++MagicBytes", b"SVGigaPixelImage")
        add_data("++VersionBytes", b"1.0.0")
        add_data("Header", struct.pack("<8I", side, image.shape[1], image.shape[0], 0, 1, 0, 0, 0))
        for step, part in ((1, image), (2, small)):
            across = -(-part.shape[1] // side)
            for number, tile in enumerate(tiles_of(part, side)):
                y, x = (place * side * step for place in divmod(number, across))
                for colour in range(3):
                    add_data(f"T;{x}|{y};{step};{colour};0", _jpeg(tile[..., colour]))
        add("SVSlideDataXPO", "1", "", "", "", "", "", 1, 2)
        add("SVHRScanDataXPO", 1, "1", "", "", "", mpp / 1000, 20, "", _jpeg(small))
        add("SVScannedImageDataXPO", _jpeg(picture(60, 40)))
        add("SVScannedImageDataXPO", _jpeg(small))
    return path


def _czi_segment(kind, body, at_least=0):
    size = max(len(body), at_least)
    size += -size % 32
    return struct.pack("<16s2q", kind, size, len(body)) + body.ljust(size, b"\0")


CZI_COMPRESSIONS = {
    "none": (0, lambda tile: tile[..., ::-1].tobytes()),
    "zstd": (5, lambda tile: imagecodecs.zstd_encode(tile[..., ::-1].tobytes())),
    "JPEG XR": (4, lambda tile: imagecodecs.jpegxr_encode(np.ascontiguousarray(tile), level=1.0)),
}


def write_czi(path, image, mpp=0.5, side=64, corner=(0, 0), compression="none"):
    """Zeiss: segments with a directory; subblocks lie anywhere, those of the second level are stored at half their size."""
    code, encode = CZI_COMPRESSIONS[compression]
    file = bytearray(32 + 512)
    entries = []
    for step, part in ((1, image), (2, half(image))):
        for y in range(0, part.shape[0], side):
            for x in range(0, part.shape[1], side):
                tile = part[y : y + side, x : x + side]
                data = encode(tile)
                entry = struct.pack("<2siqii6xi", b"DV", 3, len(file), 0, code, 3)
                for axis, first, size in (
                    (b"X", corner[1] + x * step, tile.shape[1]),
                    (b"Y", corner[0] + y * step, tile.shape[0]),
                ):
                    entry += struct.pack("<4s2ifi", axis, first, size * step, 0.0, size)
                entry += struct.pack("<4s2ifi", b"C", 0, 1, 0.0, 1)
                entries.append(entry)
                file += _czi_segment(b"ZISRAWSUBBLOCK", (struct.pack("<2iq", 0, 0, len(data)) + entry).ljust(256, b"\0") + data)
    directory = len(file)
    file += _czi_segment(b"ZISRAWDIRECTORY", struct.pack("<i124x", len(entries)) + b"".join(entries))
    metadata = len(file)
    size = f"<SizeX>{image.shape[1]}</SizeX><SizeY>{image.shape[0]}</SizeY>"
    scaling = "".join(f'<Distance Id="{axis}"><Value>{mpp * 1e-6}</Value></Distance>' for axis in "XY")
    xml = f"<ImageDocument><Metadata><Information><Image>{size}</Image></Information><Scaling><Items>{scaling}</Items></Scaling></Metadata></ImageDocument>"
    file += _czi_segment(b"ZISRAWMETADATA", struct.pack("<i252x", len(xml)) + xml.encode())
    attachment = struct.pack("<2s10xqi16x8s80s", b"A1", len(file), 0, b"JPG", b"Label")
    label = _jpeg(picture(60, 40))
    file += _czi_segment(b"ZISRAWATTACH", (struct.pack("<i12x", len(label)) + attachment).ljust(256, b"\0") + label)
    attachments = len(file)
    file += _czi_segment(b"ZISRAWATTDIR", struct.pack("<i252x", 1) + attachment)
    file[: 32 + 512] = _czi_segment(
        b"ZISRAWFILE", struct.pack("<4i32xi2qiq", 1, 0, 0, 0, 0, directory, metadata, 0, attachments), 512
    )
    path.write_bytes(file)
    return path
