import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.jobs import Eta, Progress, format_rate, format_seconds, run, speed_words


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


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (1234, "1,234/s"),
        (12, "12/s"),
        (2.54, "2.5/s"),
        (0.96, "1.0/s"),
        (0.2, "12/min"),
        (0.02, "1/min"),
        (0.001, "4/h"),
        (1e-9, "1/h"),
    ],
)
def test_a_rate_is_never_zero(rate, words):
    assert format_rate(rate) == words


@given(st.integers(1, 10_000), st.floats(1e-6, 1e5))
def test_no_rate_reads_as_zero(total, rate):
    (words,) = speed_words(Progress("Mapping", 0, total), rate, None)
    assert float(words.split("/")[0].replace(",", "")) > 0


def test_a_few_unlike_steps_have_no_time_left():
    assert speed_words(Progress("Learning", 1, 3, "steps"), 0.02, 100.0) == ["1/min"]
    assert speed_words(Progress("Saving", 1, 4, "files"), 2.0, 1.5) == ["2.0/s"]
    assert speed_words(Progress("Training", 30, 500, "steps"), 2.0, 235.0) == ["2.0/s", "3 min 55 s left"]
    assert speed_words(Progress("Slides", 1, 3, "slides"), 0.02, 100.0) == ["1/min", "1 min 40 s left"]
    assert speed_words(Progress("Mapping", 500, 500), 20.0, 0.0) == ["20/s"]
    assert speed_words(Progress("Mapping", 0, 500), 0.0, None) == []
