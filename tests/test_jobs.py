import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.jobs import Eta, Progress, format_seconds, run


def _job(log):
    try:
        yield Progress("Working", 1, 2)
        yield Progress("Working", 2, 2)
        return "done"
    finally:
        log.append("closed")


def test_run_returns_the_result_and_reports_everything():
    log, seen = [], []
    assert run(_job(log), seen.append) == "done"
    assert [p.done for p in seen] == [1, 2]
    assert log == ["closed"]


def test_a_job_is_closed_when_its_listener_raises():
    log = []
    with pytest.raises(KeyError):
        run(_job(log), lambda _: {}["missing"])
    assert log == ["closed"]


@given(st.integers(0, 1000), st.integers(1, 1000), st.floats(0.1, 1e4))
def test_time_left_is_that_of_a_steady_rate(first, advanced, seconds):
    eta, total = Eta(), first + 2 * advanced
    assert eta.update(Progress("A", first, total), now=0.0) == (0.0, None)
    rate, left = eta.update(Progress("A", first + advanced, total), now=seconds)
    assert rate == pytest.approx(advanced / seconds)
    assert left == pytest.approx(seconds)


def test_a_new_stage_starts_a_new_clock():
    eta = Eta()
    eta.update(Progress("A", 0, 10), now=0.0)
    eta.update(Progress("A", 10, 10), now=1.0)
    assert eta.update(Progress("B", 0, 10), now=2.0) == (0.0, None)


@pytest.mark.parametrize(("seconds", "words"), [(8, "8 s"), (200, "3 min 20 s"), (3900, "1 h 05 min"), (59.7, "1 min 00 s")])
def test_durations_read_as_people_say_them(seconds, words):
    assert format_seconds(seconds) == words
