"""Reading annotation files in any encoding and compression as JSON documents."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from napari_histoad.errors import RegionError

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 2 << 30
"""Larger than any annotation file; guards against compressed files of a few kB that unpack to gigabytes."""
_EXPORT = "export the annotations as GeoJSON"


def read_document(file: Path) -> tuple[Any, list[str]]:
    """Return the JSON document of a file, and notes on what was assumed to read it.

    The encoding may be UTF-8, UTF-16 or UTF-32, with or without a byte-order mark; other files are read as Latin-1. Gzip and zip
    are unpacked. The values of a key that occurs twice with different values become a list, so that none is lost.

    Raises
    ------
    RegionError
        If the file cannot be read or is not JSON.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError as err:
        raise RegionError(f"there is no annotation file {file}", "check the path") from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        reason = getattr(err, "strerror", None) or err
        raise RegionError(f"{file} cannot be read: {reason}", "check that it is a file and its permissions") from err
    data = _unpacked(data, file.name)
    notes = []
    try:
        text = data.decode(json.detect_encoding(data)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
        notes.append(f"{file.name} is not UTF-8 and was read as Latin-1: check the names of classes")
    if text.lstrip()[:1] == "<":
        msg = f"{file.name} is XML (ASAP, ImageScope or NDPA), which is not supported"
        raise RegionError(msg, "open it in QuPath or the program that wrote it and export GeoJSON")
    try:
        return json.loads(text, object_pairs_hook=_one_value_per_key), notes
    except RecursionError as err:
        raise RegionError(f"{file.name} is nested too deeply to be an annotation file", _EXPORT) from err
    except ValueError as err:
        raise RegionError(f"{file.name} is not JSON ({err})", _EXPORT) from err


def _unpacked(data: bytes, name: str) -> bytes:
    try:
        if data[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            unpacked = unpacker.decompress(data, _MOST_BYTES)
            if not unpacker.eof and len(unpacked) < _MOST_BYTES:
                raise RegionError(f"{name} is cut short", "copy or export it again")
        elif data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                inside = [n for n in archive.namelist() if n.lower().endswith((".geojson", ".json")) and "__MACOSX" not in n]
                if len(inside) != 1:
                    msg = f"{name} holds {len(inside)} annotation files (.geojson, .json)"
                    raise RegionError(msg, "unpack it and give one of the files")
                with archive.open(inside[0]) as member:
                    unpacked = member.read(_MOST_BYTES)
        else:
            return data
    except (zlib.error, zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as err:
        raise RegionError(f"{name} cannot be unpacked ({err})", "copy or export it again") from err
    if len(unpacked) >= _MOST_BYTES:
        raise RegionError(f"{name} unpacks to more than 2 GiB", "export the annotations without cells and detections")
    return unpacked


def _one_value_per_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key in found:
            values = [value for name, value in pairs if name == key]
            if any(value != values[0] for value in values):
                found[key] = values
    return found
