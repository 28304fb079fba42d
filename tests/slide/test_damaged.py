"""Files that are cut short, contradictory or malicious: one-line errors, no hang, bounded memory."""

import contextlib
import os
import struct
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slide_writers import picture, write_svs

from napari_histoad import open_slide
from napari_histoad.errors import SlideError


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.05])
def test_open_slide_refuses_truncated_files(write_tiff, keep):
    path = write_tiff(picture(300, 300), compression="zlib")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(SlideError, match="cut short|damaged|not a slide"):
        open_slide(path)


def test_read_names_a_damaged_tile(write_tiff):
    path = write_tiff(np.full((128, 128, 3), 90, np.uint8), compression="jpeg")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[3], tif.pages[0].databytecounts[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\0" * count
    path.write_bytes(data)
    with open_slide(path) as slide:
        slide.read(0, 0, 0, 64, 64)
        with pytest.raises(SlideError, match=r"row 1, column 1\) of level 0"):
            slide.read(0, 70, 70, 20, 20)


def read_everything(path):
    with open_slide(path) as slide:
        for index, level in enumerate(slide.levels):
            slide.read(index, 0, 0, *(min(n, 2000) for n in level.shape))
        for read in slide.associated.values():
            read()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of tifffile, on numbers that overflow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40), head=st.booleans())
def test_random_damage_raises_slide_error_or_nothing(tmp_path, seed, count, head):
    original = tmp_path / "good.svs"
    if not original.exists():
        write_svs(original, picture(200, 180))
    data = bytearray(original.read_bytes())
    rng = np.random.default_rng(seed)
    with tifffile.TiffFile(original) as tif:
        tags = [p.offset for p in tif.pages]
    for _ in range(count):
        # Half of the damage goes where it hurts: into the tags.
        at = int(rng.choice(tags)) + int(rng.integers(0, 250)) if head else int(rng.integers(0, len(data)))
        data[min(at, len(data) - 1)] = int(rng.integers(0, 256))
    path = tmp_path / "bad.svs"
    path.write_bytes(data)
    with contextlib.suppress(SlideError):
        read_everything(path)


def tiff(entries, tail=b"", next_page=0):
    """A classic little-endian TIFF of one page with the tags (code, type, count, value)."""
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", next_page) + tail


def rgb_page(height, width, tile, offset, count, compression=1):
    bits = 8 + 2 + 12 * 12 + 4  # where the tail begins
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, compression), (262, 3, 1, 2), (277, 3, 1, 3)),
        *((284, 3, 1, 1), (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, offset), (325, 4, 1, count), (339, 3, 1, 1)),
    ]
    return tiff(entries, struct.pack("<HHH", 8, 8, 8))


HARMFUL = {
    "circular": tiff([(256, 4, 1, 10)], next_page=8),
    "a page past the end": b"II*\0" + struct.pack("<I", 10**9),
    "65,535 tags": b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(1000),
    "a slide of 4 billion pixels a side": rgb_page(2**32 - 1, 2**32 - 1, 256, 170, 100),
    "a tile of 4 billion pixels a side": rgb_page(1000, 1000, 2**32 - 16, 170, 100),
    "a tile of 3 GB": rgb_page(1000, 1000, 32000, 170, 100),
    "more tiles than listed": rgb_page(10**6, 10**6, 16, 170, 100),
    "tiles of no size": rgb_page(100, 100, 0, 170, 100),
    "a tile past the end": rgb_page(100, 100, 112, 10**9, 100),
    "an empty image": rgb_page(0, 0, 16, 170, 100),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_open_slide_refuses_contradictory_tags_in_one_line(tmp_path, name):
    path = tmp_path / "lie.tif"
    path.write_bytes(HARMFUL[name])
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert "lie.tif" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_slide_refuses_a_million_pages_quickly(tmp_path):
    one = struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 10)
    pages = b"".join(one + struct.pack("<I", 8 + 18 * (i + 1)) for i in range(10**6))
    path = tmp_path / "pages.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + pages)
    with pytest.raises(SlideError, match="more than 5,000 pages"):
        open_slide(path)


def bomb(kind):
    """A tile of 64 px in a few kB that says it is, or unpacks to, a thousand times more."""
    if kind == "deflate":
        return 8, zlib.compress(bytes(400_000_000), 9)
    large = np.zeros((20_000, 20_000, 3), np.uint8)
    if kind == "jpeg":
        return 7, imagecodecs.jpeg8_encode(large, level=50)
    return 34712, imagecodecs.jpeg2k_encode(large[:9000, :9000], level=1000, codecformat="j2k")


@pytest.mark.parametrize("kind", ["deflate", "jpeg", "jpeg2000"])
def test_decompression_bombs_are_refused_without_allocating_their_memory(tmp_path, kind):
    pytest.importorskip("resource", reason="peak memory is not told on Windows")
    compression, data = bomb(kind)
    path = tmp_path / "bomb.tif"
    page = bytearray(rgb_page(64, 64, 64, 170, len(data), compression))
    path.write_bytes(bytes(page.ljust(170, b"\0")) + bytes(data))
    script = f"""
import resource
from napari_histoad import open_slide
from napari_histoad.errors import SlideError
slide = open_slide({str(path)!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    slide.read(0, 0, 0, 64, 64)
except SlideError as err:
    print(err)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 60_000, grown
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert kind == "deflate" or "tile (row 0, column 0) of level 0" in done.stdout


def test_memory_does_not_grow_over_ten_thousand_reads(tmp_path):
    path = write_svs(tmp_path / "s.svs", picture(600, 600))
    rng = np.random.default_rng(0)

    def reads(slide, n):
        for y, x in rng.integers(-50, 600, (n, 2)):
            slide.read(0, int(y), int(x), 40, 40)

    resource = pytest.importorskip("resource", reason="peak memory is not told on Windows")
    with open_slide(path) as slide:
        reads(slide, 500)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reads(slide, 10_000)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_open_slide_refuses_a_pipe_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.svs")
    with pytest.raises(SlideError, match="pipe"):
        open_slide(tmp_path / "a.svs")
