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


def test_run_closes_the_job_if_the_callback_raises():
    log = []
    with pytest.raises(KeyError):
        run(_job(log), lambda _: {}["missing"])
    assert log == ["closed"]


@given(st.integers(0, 1000), st.integers(1, 1000), st.floats(0.1, 1e4))
def test_eta_of_a_steady_rate_is_the_remaining_time(first, advanced, seconds):
    eta, total = Eta(), first + 2 * advanced
    assert eta.update(Progress("A", first, total), now=0.0) == (0.0, None)
    rate, left = eta.update(Progress("A", first + advanced, total), now=seconds)
    assert rate == pytest.approx(advanced / seconds)
    assert left == pytest.approx(seconds)


def test_eta_starts_again_with_each_stage():
    eta = Eta()
    eta.update(Progress("A", 0, 10), now=0.0)
    eta.update(Progress("A", 10, 10), now=1.0)
    assert eta.update(Progress("B", 0, 10), now=2.0) == (0.0, None)


@pytest.mark.parametrize(("seconds", "words"), [(8, "8 s"), (200, "3 min 20 s"), (3900, "1 h 05 min"), (59.7, "1 min 00 s")])
def test_format_seconds_returns_seconds_minutes_or_hours(seconds, words):
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
def test_format_rate_is_never_zero(rate, words):
    assert format_rate(rate) == words


@given(st.integers(1, 10_000), st.floats(1e-6, 1e5))
def test_speed_words_never_show_a_rate_of_zero(total, rate):
    (words,) = speed_words(Progress("Mapping", 0, total), rate, None)
    assert float(words.split("/")[0].replace(",", "")) > 0


def test_speed_words_show_no_remaining_time_for_a_few_steps():
    assert speed_words(Progress("Learning", 1, 3, "steps"), 0.02, 100.0) == ["1/min"]
    assert speed_words(Progress("Saving", 1, 4, "files"), 2.0, 1.5) == ["2.0/s"]
    assert speed_words(Progress("Training", 30, 500, "steps"), 2.0, 235.0) == ["2.0/s", "3 min 55 s left"]
    assert speed_words(Progress("Slides", 1, 3, "slides"), 0.02, 100.0) == ["1/min", "1 min 40 s left"]
    assert speed_words(Progress("Mapping", 500, 500), 20.0, 0.0) == ["20/s"]
    assert speed_words(Progress("Mapping", 0, 500), 0.0, None) == []
