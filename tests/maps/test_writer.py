"""The writer loses no finished block, and the bytes of a map do not depend on the order or the interruptions of a run."""

import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from map_makers import block_values, bytes_of, fill, finish, make_map, scored_block

from napari_histoad.errors import MapError, OutputError
from napari_histoad.maps import AnomalyMap, MapWriter, _pyramids, _writer, finish_job, write_error_maps
from napari_histoad.system.atomic import lock_output

_OF_MANY_CHUNKS = {"shape": (4200, 4600), "stride_px": 32, "cell_um": 2.0}


def _values(result, block, *, error_maps):
    scores, maps = block_values(result, block)
    return scored_block(block, scores, maps if error_maps else None)


@pytest.mark.parametrize("error_maps", [True, False])
@pytest.mark.parametrize(("seed", "made"), [*((seed, {}) for seed in range(4)), (4, _OF_MANY_CHUNKS), (5, _OF_MANY_CHUNKS)])
def test_writer_gives_the_same_bytes_for_blocks_of_this_and_of_other_processes(tmp_path, seed, made, error_maps, monkeypatch):
    random, folder = Random(seed), tmp_path
    straight = make_map(folder / "a.ome.zarr", **made)
    with MapWriter(straight) as writer:
        for block in range(straight.block_count):
            writer.add(_values(straight, block, error_maps=error_maps))
    finish(straight)
    # However many are written, and blended, together.
    monkeypatch.setattr(_writer, "_MOST_BLOCKS", random.choice([1, 3, 256]))
    monkeypatch.setattr(_pyramids, "_BOX_CELLS", random.choice([1, 2**17, 2**21]))
    mixed = make_map(folder / "b.ome.zarr", **made)
    order = list(range(mixed.block_count))
    random.shuffle(order)
    cut = random.randrange(len(order))
    for part in (order[:cut], order[cut:]):
        with MapWriter(mixed) as writer:
            for block in part:
                tiles = _values(mixed, block, error_maps=error_maps)
                if random.random() < 0.5 and tiles.error_cells is not None:  # as a worker of a cluster does it
                    write_error_maps(mixed, tiles)
                    tiles = replace(tiles, error_cells=None)
                writer.add(tiles)
        mixed = make_map(folder / "b.ome.zarr", **made)
    finish(mixed)
    a, b = bytes_of(straight.path), bytes_of(mixed.path)
    assert {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)} == set()
    assert bool(mixed.error_levels) is error_maps


@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_finish_job_gives_the_same_bytes_after_an_interruption(tmp_path, steps):
    straight, cut = (make_map(tmp_path / f"{name}.ome.zarr", **_OF_MANY_CHUNKS) for name in "ab")
    for result in (straight, cut):
        fill(result, range(result.block_count))
    finish(straight)
    job = finish_job(cut)
    for _ in range(steps):
        next(job)
    job.close()
    assert not AnomalyMap.open(cut.path).info.complete
    (cut.path / "0" / "c" / "0" / "0").write_bytes(b"half of a chunk")
    finish(make_map(cut.path, **_OF_MANY_CHUNKS))
    assert bytes_of(straight.path) == bytes_of(cut.path)


def test_finish_job_writes_error_maps_as_a_pyramid_beside_the_anomaly_map(tmp_path):
    without, given = (make_map(tmp_path / f"{name}.ome.zarr") for name in "ab")
    for result in (without, given):
        with MapWriter(result) as writer:
            for block in range(result.block_count):
                scores, maps = block_values(result, block)
                scores[slice(None) if block in (3, 4) else 5] = np.nan  # could not be decoded
                maps[:] = 2 * scores[:, None, None]
                writer.add(scored_block(block, scores, maps if result is given else None))
        finish(result)
    assert without.error_maps(0) is None
    assert without.error_levels == []
    assert not (without.path / "errors").exists()
    assert not any((without.path / "tiles/error_map").glob("c*"))
    for level, errors, alone in zip(given.levels, given.error_levels, without.levels, strict=True):
        scores = np.asarray(level)
        assert np.array_equal(scores, np.asarray(alone), equal_nan=True)
        np.testing.assert_allclose(np.asarray(errors), 2 * scores, rtol=1e-5)
    assert 0 < np.isnan(given.levels[0]).sum() < given.levels[0].size


def test_writer_accepts_blocks_without_blocking_while_it_gathers(tmp_path, monkeypatch):
    monkeypatch.setattr(_writer, "_FIRST_S", 600)
    monkeypatch.setattr(_writer, "_MOST_BLOCKS", 10)
    monkeypatch.setattr(_writer, "_WAITING_BLOCKS", 2)
    result = make_map(tmp_path / "a.ome.zarr")
    assert result.block_count > 12
    with MapWriter(result) as writer:  # more than it lets wait, before its time is over
        for block in range(result.block_count):
            writer.add(scored_block(block, *block_values(result, block)))
    assert result.finished_blocks() == set(range(result.block_count))


def test_writer_writes_all_added_blocks_after_an_exception(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    with pytest.raises(KeyError), MapWriter(result) as writer:  # noqa: PT012 - what comes before counts
        writer.add(scored_block(3, *block_values(result, 3)))
        writer.add(scored_block(4, *block_values(result, 4)))
        raise KeyError
    assert result.finished_blocks() == {3, 4}
    assert np.array_equal(result.scores[3 * 64 : 4 * 64], block_values(result, 3)[0])


@pytest.mark.parametrize("error_maps", [True, False])
def test_writer_raises_and_recreates_nothing_if_the_map_was_deleted(tmp_path, error_maps):
    result = make_map(tmp_path / "a.ome.zarr")
    with MapWriter(result) as writer:
        writer.add(_values(result, 3, error_maps=error_maps))
    with pytest.raises(MapError, match=r"was deleted or moved.*; put (it|the map) back"), MapWriter(result) as writer:  # noqa: PT012
        result.path.rename(tmp_path / "elsewhere")
        writer.add(_values(result, 4, error_maps=error_maps))
    with pytest.raises(MapError, match=r"its tiles/score is missing; put it back"):
        _ = result.scores
    assert not result.path.exists()
    (tmp_path / "elsewhere").rename(result.path)
    again = make_map(result.path)
    assert again.finished_blocks() == {3}


def test_writer_reports_the_box_of_blocks_once_they_are_on_disk(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    with MapWriter(result) as writer:
        assert writer.written() is None
        writer.add(scored_block(0, *block_values(result, 0)))
        writer.drain()
        y0, x0, y1, x1 = writer.written()
        assert not np.isnan(result.score_field((y0, x0, y1, x1))).all()
        assert np.isnan(AnomalyMap.open(result.path).score_field()).sum() == np.isnan(result.score_field()).sum()
        assert writer.written() is None


def test_writer_refuses_blocks_after_it_was_drained(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    with MapWriter(result) as writer:
        writer.drain()
        with pytest.raises(MapError, match="no more blocks"):
            writer.add(scored_block(0, *block_values(result, 0)))


def test_writer_raises_disk_errors_in_the_thread_that_adds_blocks(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr")
    with pytest.raises(OutputError, match="cannot write"), MapWriter(result) as writer:  # noqa: PT012 - whichever call meets it
        (result.path / "journal").unlink()
        (result.path / "journal").mkdir()  # cannot be appended to
        writer.add(scored_block(0, *block_values(result, 0)))
        writer.drain()


def test_lock_output_refuses_a_second_run_on_the_same_map(tmp_path):
    folder = tmp_path / "case.ome.zarr"
    code = """
        import sys
        from pathlib import Path
        from napari_histoad.system.atomic import lock_output
        with lock_output(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="another run is writing"), lock_output(folder):
            pass
    finally:
        other.kill()  # a run that dies holds nothing any more
        other.wait()
        other.stdout.close()
    with lock_output(folder):
        pass


@pytest.mark.parametrize("names_first", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_map_resumed_after_a_power_failure_has_the_same_bytes(tmp_path, simulated_disk, seed, names_first, monkeypatch):
    monkeypatch.setattr(_writer, "_MOST_BLOCKS", 5)  # several stores, each of which a failure may hit

    def work(folder):
        result = make_map(folder / "a.ome.zarr")
        done = result.finished_blocks()
        fill(result, [block for block in range(result.block_count) if block not in done])
        finish(result)
        return result.path

    undisturbed = bytes_of(work(simulated_disk.folder))
    shutil.rmtree(simulated_disk.folder / "a.ome.zarr")
    left = tmp_path / "left"
    simulated_disk.fail(Random(seed).randrange(1, simulated_disk.events - 5), left, names_first=names_first)
    assert bytes_of(work(simulated_disk.folder)) == undisturbed
    assert left.exists()
    assert bytes_of(work(left)) == undisturbed
