import time

import numpy as np
import pytest
from map_makers import fill, make_map

from napari_histoad.maps import AnomalyMap
from napari_histoad.regions import read_regions
from napari_histoad.results import UNSURE, VERDICTS, Verdicts, propose_tiles, verdict_file


@pytest.fixture
def result(tmp_path):
    made = make_map(tmp_path / "a.ome.zarr")
    fill(made, range(made.block_count))
    return made


def _box(result, row):
    return tuple(result.boxes[row].tolist())


def test_verdict_file_is_the_same_for_a_map_that_was_set_aside(result):
    path = verdict_file(result)
    Verdicts(path).give(_box(result, 0), VERDICTS[0])
    aside = result.path.rename(result.path.with_name("a.earlier-12.ome.zarr"))
    assert verdict_file(AnomalyMap.open(aside)) == path


def test_verdicts_are_saved_at_once_and_read_again(result):
    path = verdict_file(result)
    verdicts = Verdicts(path)
    before = time.time()
    for row, name in enumerate(VERDICTS):
        verdicts.give(_box(result, row * 5), name)
        assert len(read_regions(path)) == row + 1
    again = Verdicts(path)
    assert [v.name for v in again] == list(VERDICTS)
    assert all(before - 1 <= v.time <= time.time() + 1 for v in again)
    assert again.of(_box(result, 5)) == "Anomalous"
    assert again.of(_box(result, 1)) is None
    assert again.counts() == dict.fromkeys(VERDICTS, 1)
    assert path.parent == result.path.parent
    assert [p.name for p in path.parent.glob("*partial*")] == []


def test_verdicts_replace_earlier_ones_and_undo_each_change(result):
    verdicts, first, second = Verdicts(verdict_file(result)), _box(result, 0), _box(result, 9)
    assert verdicts.undo() is None
    verdicts.give(first, "Normal")
    verdicts.give(second, UNSURE)
    verdicts.give(first, "Anomalous")
    assert len(verdicts) == 2
    assert verdicts.undo() == first
    assert verdicts.of(first) == "Normal"
    assert Verdicts(verdicts.path).of(first) == "Normal"
    assert verdicts.undo() == second
    assert verdicts.undo() == first
    assert len(verdicts) == 0
    assert len(Verdicts(verdicts.path)) == 0


def test_verdicts_are_unchanged_when_saving_fails(result, monkeypatch):
    verdicts = Verdicts(verdict_file(result))
    verdicts.give(_box(result, 0), "Normal")
    verdicts.give(_box(result, 5), "Normal")
    failing = lambda *_: (_ for _ in ()).throw(OSError(28, "disk full"))  # noqa: E731
    monkeypatch.setattr("napari_histoad.results._verdicts.write_geojson", failing)
    with pytest.raises(Exception, match="disk full"):
        verdicts.give(_box(result, 9), "Normal")
    assert len(verdicts) == 2
    with pytest.raises(Exception, match="disk full"):
        verdicts.undo()
    assert len(verdicts) == 2


def test_propose_tiles_returns_the_highest_scores_without_overlap(result):
    rows = propose_tiles(result, count=12)
    assert len(rows) == len(set(rows.tolist())) == 12
    assert rows[0] == np.argmax(result.scores)
    assert (np.diff(result.scores[rows]) <= 0).all()
    centres = result.origins[rows]
    distance = np.abs(centres[:, None] - centres[None]).max(axis=2) + 10**6 * np.eye(12)
    assert distance.min() >= 1.5 * result.info.tile_l0


def test_propose_tiles_leaves_out_judged_tiles_and_their_neighbours(result):
    verdicts = Verdicts(verdict_file(result))
    rows = propose_tiles(result, count=5)
    for row in rows:
        verdicts.give(_box(result, row), "Normal")
    following = propose_tiles(result, verdicts, count=5)
    gap = np.abs(result.origins[following][:, None] - result.origins[rows][None]).max(axis=2)
    assert gap.min() >= 1.5 * result.info.tile_l0
    assert len(propose_tiles(result, count=10**6)) < len(result) / 4
