import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from napari_histoad import open_slide
from napari_histoad.slide._tile_cache import TileCache, memory_for_tiles

TILE = (8, 8)


def fill(value, pixels):
    pixels[:] = value


def bytes_held(cache):
    return sum(entry.pixels.nbytes for entry in cache._entries.values())


def test_tile_cache_decodes_a_tile_once():
    cache, calls = TileCache(), []

    def decode(pixels):
        calls.append(1)
        pixels[:] = 7

    for _ in range(3):
        with cache.tile((0, 1), TILE, decode) as pixels:
            assert (pixels == 7).all()
    assert len(calls) == 1


@pytest.mark.parametrize(("count", "side"), [(1, 256), (42, 256), (3, 240), (2, 33)])
def test_memory_for_tiles_begins_off_the_multiples_of_32_bytes(count, side):
    tiles = memory_for_tiles(count, side, side)
    assert tiles.shape == (count, side, side, 3)
    assert tiles.flags.c_contiguous
    assert tiles.flags.writeable
    assert tiles.ctypes.data % 32 == 16


def test_tile_cache_keeps_whole_tiles_only_while_tiles_are_requested_twice():
    cache = TileCache()

    def wanted_whole(number):
        if cache.pass_by((0, number)):
            return "passed by"
        with cache.tile((0, number), TILE, partial(fill, 1)):
            return "kept"

    assert {wanted_whole(n) for n in range(2000)} == {"passed by"}
    assert {wanted_whole(n) for n in range(1000)} == {"passed by"}  # once more, but long after
    assert wanted_whole(900) == "kept"  # soon after
    assert {wanted_whole(n // 2) for n in range(4000, 4100)} == {"kept"}
    found = [wanted_whole(n) for n in range(5000, 7000)]
    assert found[:100] == ["kept"] * 100
    assert found[1000:] == ["passed by"] * 1000


def test_tile_cache_lets_threads_wait_for_the_one_that_decodes():
    cache, calls, waiting = TileCache(), [], threading.Event()

    def decode(pixels):
        calls.append(1)
        waiting.wait(60)  # until others want the tile as well
        pixels[:] = 5

    def use(number):
        if number == 7:
            waiting.set()
        with cache.tile((0, 0), TILE, decode) as pixels:
            return int(pixels.min())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(16))) == [5] * 16
    assert len(calls) == 1


def test_tile_cache_is_bounded_and_never_overwrites_tiles_in_use():
    cache = TileCache(capacity=10 * 8 * 8 * 3)
    stop = threading.Event()

    def hold():
        with cache.tile((9, 9), TILE, partial(fill, 99)) as pixels:
            stop.wait()
            return int(pixels.min()), int(pixels.max())

    def work(seed):
        for number in np.random.default_rng(seed).integers(0, 60, 500):
            with cache.tile((0, int(number)), TILE, partial(fill, int(number))) as pixels:
                assert (pixels == number).all()

    with ThreadPoolExecutor(5) as pool:
        held = pool.submit(hold)
        list(pool.map(work, range(4)))
        stop.set()
        assert held.result() == (99, 99)
    assert bytes_held(cache) <= 15 * 8 * 8 * 3


def test_tile_cache_tries_a_failed_tile_again():
    cache = TileCache()

    def fail(pixels):
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"), cache.tile((0, 0), TILE, fail):
            pass
    with cache.tile((0, 0), TILE, partial(fill, 3)) as pixels:
        assert (pixels == 3).all()
    assert bytes_held(cache) == 8 * 8 * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_tile_cache_works_in_a_forked_process(write_tiff):
    """Whatever locks are held at the moment of the fork, the child reads on."""
    image = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    with open_slide(write_tiff(image)) as slide:
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                slide.read(0, 10, 10, 300, 300)

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            children = []
            for _ in range(10):
                child = os.fork()
                if child == 0:
                    same = np.array_equal(slide.read(0, 33, 44, 200, 150), image[33:233, 44:194])
                    os._exit(0 if same else 1)
                children.append(child)
            for child in children:  # one that hangs ends with the time-out of the test
                assert os.waitpid(child, 0)[1] == 0
        finally:
            stop.set()
            thread.join()


def test_tile_cache_decodes_again_for_a_thread_that_waited_for_a_failed_tile():
    """A read that fails once, as network disks do, must neither hand out garbage nor count the tile twice."""
    cache, failing, waiting = TileCache(), threading.Event(), threading.Event()

    def fail_once(pixels):
        failing.set()
        waiting.wait(60)
        raise OSError("gone for a moment")

    def first():
        with pytest.raises(OSError, match="moment"), cache.tile((0, 0), TILE, fail_once):
            pass

    def second():
        failing.wait()
        waiting.set()
        with cache.tile((0, 0), TILE, partial(fill, 4)) as pixels:
            return int(pixels.min()), int(pixels.max())

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(first), pool.submit(second)
        one.result()
        assert two.result() == (4, 4)
    assert cache._bytes == bytes_held(cache)


def test_tile_cache_is_bypassed_by_adjacent_reads_but_not_by_overlapping_ones():
    cache = TileCache()
    assert all(cache.pass_by((0, n)) for n in range(50))
    with cache.tile((0, 7), TILE, partial(fill, 1)):
        pass  # asked for a second time: windows overlap
    assert not cache.pass_by((0, 99))


def test_tile_cache_bypass_ends_when_a_tile_is_read_twice():
    cache = TileCache()
    assert cache.pass_by((0, 1))
    assert not cache.pass_by((0, 1))
    assert not cache.pass_by((0, 2))
