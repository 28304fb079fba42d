"""Decoding JPEG 2000 tiles to RGB.

A codestream does not state the colour space of its components (ISO/IEC 15444-1, annex A); the file around it does. Decoders that
guess from subsampling miss YCbCr that is not subsampled; here the caller states the colour space.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_START, _DATA, _CODING = b"\xff\x4f\xff\x51", b"\xff\x93", b"\xff\x52"
_SRGB, _SYCC = 16, 18
_TURNED_INTO_RGB = (((1, 1), (1, 2), (1, 2)), ((1, 1), (2, 2), (2, 2)))
"""4:2:2 and 4:2:0, which imagecodecs takes for YCbCr and converts to RGB; it refuses others."""


@dataclass(frozen=True)
class Codestream:
    """A JPEG 2000 codestream, without the file format around it, and its header."""

    data: bytes
    shape: tuple[int, int]  # (height, width) in pixels
    steps: tuple[tuple[int, int], ...]  # subsampling (y, x) of each component: image pixels per sample
    transformed: bool  # it includes a colour transform: its decoded components are RGB then
    ycbcr: bool | None  # what the file around it states; None if there is no such file

    @classmethod
    def parse(cls, data: bytes) -> Codestream:
        """Read the header; ValueError if the data are not JPEG 2000."""
        begin = data.find(_START, 0, 4096)
        if begin < 0 or len(data) < begin + 42:
            raise ValueError("it is not JPEG 2000")
        box = data.find(b"colr\x01", 0, begin)
        ycbcr = None if box < 0 else struct.unpack_from(">I", data[:begin].ljust(box + 11, b"\0"), box + 7)[0] == _SYCC
        code = data[begin:] if begin else data
        right, bottom, left, top = struct.unpack_from(">4I", code, 8)
        (components,) = struct.unpack_from(">H", code, 40)
        if len(code) < 42 + 3 * components:
            raise ValueError("it is cut short")
        steps = tuple((code[44 + 3 * i], code[43 + 3 * i]) for i in range(components))
        return cls(code, (bottom - top, right - left), steps, _transformed(code), ycbcr)

    @property
    def subsampled(self) -> bool:
        """Whether some components have fewer pixels than others."""
        return len(set(self.steps)) > 1

    def decode(self, *, ycbcr: bool) -> NDArray[np.uint8]:
        """Return the pixels, (h, w) or (h, w, components) uint8; three components, which may be YCbCr, are returned as RGB."""
        if self.subsampled and not (ycbcr and self.steps in _TURNED_INTO_RGB):
            height, width = self.shape
            if any(height % y or width % x for y, x in self.steps):  # Pillow would read rows too short
                raise ValueError(f"subsampled components of {height} x {width} px")
            with Image.open(io.BytesIO(self._with_colours(ycbcr=ycbcr))) as image:
                return np.asarray(image)
        pixels: NDArray[np.uint8] = imagecodecs.jpeg2k_decode(self.data)
        if ycbcr and not self.subsampled and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8:
            return np.asarray(Image.frombytes("YCbCr", pixels.shape[1::-1], pixels.tobytes()).convert("RGB"))
        return pixels

    def _with_colours(self, *, ycbcr: bool) -> bytes:
        """Return the codestream in a JP2 file, which states its colour space."""
        head = struct.pack(">2IH4B", *self.shape, len(self.steps), 7, 7, 0, 0)
        colours = struct.pack(">3BI", 1, 0, 0, _SYCC if ycbcr else _SRGB)
        return b"".join(
            [
                _box(b"jP  ", b"\r\n\x87\n"),
                _box(b"ftyp", b"jp2 \0\0\0\0jp2 "),
                _box(b"jp2h", _box(b"ihdr", head) + _box(b"colr", colours)),
                _box(b"jp2c", self.data),
            ]
        )


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _transformed(code: bytes) -> bool:
    at = 2
    while at + 4 <= len(code) and code[at : at + 2] != _DATA:
        if code[at : at + 2] == _CODING:
            return code[at + 8 : at + 9] == b"\x01"
        at += 2 + int(struct.unpack_from(">H", code, at + 2)[0])
    return False
