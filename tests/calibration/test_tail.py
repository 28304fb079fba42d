"""P-values that a fitted tail extrapolates: how fine, how true, when refused, and where they are marked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.calibration import Calibration, CalibrationBasis, find_discoveries
from napari_histoad.errors import SettingsError

RNG = np.random.default_rng


def _calibration(scores, groups=20, **basis):
    group = np.arange(len(scores)) % groups
    return Calibration.from_scores(scores, groups=group, slides=group, basis=CalibrationBasis("outlines", **basis))


@pytest.fixture(scope="module")
def normal():
    return _calibration(RNG(0).normal(size=1000))


@given(st.floats(0, 60), st.floats(0, 60))
def test_a_tail_changes_only_p_values_of_scores_above_all_normals_and_keeps_their_order(normal, one, other):
    finer = normal.with_tail()
    low, high = sorted((one, other))
    plain, p = normal.p_value(np.array([low, high])), finer.p_value(np.array([low, high]))
    assert p[0] >= p[1] >= 1 / 10010 * (1 - 1e-6)
    for k, score in enumerate((low, high)):
        assert (p[k] == plain[k]) or (score > normal.scores[-1] and p[k] < plain[k] == np.float32(1 / 1001))
    assert np.isnan(finer.p_value(np.array([np.nan]))[0])


@given(st.floats(1e-4, 0.5))
def test_a_threshold_flags_exactly_the_scores_whose_p_value_is_at_most_the_rate(normal, rate):
    finer, query = normal.with_tail(), np.linspace(1, 12, 400)
    p = finer.p_value(query).astype(float)
    clear = abs(p - rate) > 1e-6 * rate
    assert np.array_equal((p <= rate)[clear], (query > finer.threshold(rate))[clear])


def test_a_tail_reaches_a_tenth_of_the_smallest_rate_that_tiles_support_and_is_taken_back(normal):
    finer = normal.with_tail()
    assert finer.supported_rate == normal.smallest_rate == pytest.approx(1 / 1001)
    assert finer.smallest_rate == pytest.approx(1 / 10010)
    assert finer.p_value(np.array([1e9]))[0] == pytest.approx(1 / 10010)
    assert np.isfinite(finer.threshold(finer.smallest_rate))
    assert finer.threshold(finer.smallest_rate / 2) == normal.threshold(0.0005) == np.inf
    assert finer.default_rate == normal.default_rate
    assert finer.with_tail(used=False).smallest_rate == normal.smallest_rate


DRAWS = {
    "normal": lambda size: RNG(1).normal(size=size),
    "gamma": lambda size: RNG(2).gamma(2, 1, size),
    "log-normal": lambda size: RNG(3).lognormal(0, 0.7, size),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_extrapolated_rates_hold_on_average(draw):
    """Over calibrations that pass the check, normal tiles are flagged no more often than stated."""
    scores, rates = draw((400, 2000)), []
    fresh = scores[200:].ravel()
    for normals in scores[:200]:
        found = _calibration(normals)
        if not found.tail_check.problem:
            finer = found.with_tail()
            rates.append((fresh > finer.threshold(finer.smallest_rate)).mean() / finer.smallest_rate)
    assert len(rates) > 100
    assert np.mean(rates) < 1.5


def test_groups_that_differ_are_refused_in_most_draws():
    refused = 0
    for seed in range(40):
        rng = RNG(seed)
        scores = rng.normal(size=(50, 10)) + 1.5 * rng.normal(size=10)
        refused += "on held-out groups" in _calibration(scores.ravel(), 10).tail_check.problem
    assert refused > 20


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (_calibration(np.arange(499.0)), "499 calibration tiles are too few, at least 500"),
        (Calibration.from_scores(np.arange(800.0)), "groups of the calibration tiles were not recorded"),
        (_calibration(np.arange(800.0), 4), "come from 4 groups, and a tail is checked on 5 parts"),
        (_calibration(np.ones(800)), "too much alike"),
        (_calibration(RNG(0).normal(size=800), doubts=("mixed",)), "the rates are approximate already"),
        (_calibration(RNG(0).normal(size=800)).made_valid_for("new-slide"), "a tail of tiles does not replace them"),
    ],
)
def test_a_tail_is_refused_where_it_cannot_be_checked(found, why):
    with pytest.raises(SettingsError, match="p-values cannot be extrapolated: .*use rates of at least") as refused:
        found.with_tail()
    assert why in refused.value.what


def test_rates_for_a_new_slide_are_not_extrapolated(normal):
    new = normal.with_tail().made_valid_for("new-slide")
    assert not new.extrapolated
    assert new.smallest_rate == pytest.approx(1 / 21)


def test_extrapolated_p_values_are_marked_in_words(normal):
    finer = normal.with_tail()
    assert "P-values below 0.001 are extrapolated, down to 0.0001, by a generalised Pareto tail" in finer.tail_note
    assert f"{finer.tail_check.found} tiles above its thresholds, 5.0 expected" in finer.tail_note
    assert normal.tail_note == ""
    assert (finer.show_p(0.0002), finer.show_p(1 / 1001), normal.show_p(0.0002)) == ("0.0002 (extrapolated)", "0.001", "0.0002")
    assert finer.explain_rate(0.0002).endswith("by an extrapolated p-value")
    assert "extrapolated" not in finer.explain_rate(0.01)
    assert normal.explain_rate(0.0002).startswith("Nothing is flagged")
    assert finer.rate_interval(0.0002) is None
    assert finer.is_extrapolated([0.0002, 0.5, np.nan]).tolist() == [True, False, False]


def test_false_discoveries_use_a_tail_only_where_nothing_else_is_flagged(normal):
    rng = RNG(5)
    many, few, none = (np.r_[rng.normal(size=4000), np.full(count, 40.0)] for count in (400, 30, 0))
    found = find_discoveries(normal, many, 0.1)
    assert not found.calibration.extrapolated
    assert found.flagged >= 400
    found = find_discoveries(normal, few, 0.1)
    assert found.calibration.extrapolated
    assert 30 <= found.flagged <= 35
    assert found.needed == np.ceil(4030 / 10010 / 0.1)
    assert (few > found.calibration.threshold(found.rate)).sum() == found.flagged
    assert "5 of 4,030 tiles reach the smallest p-value, 0.0001 (extrapolated), at once; 30 do" in found.sentence
    found = find_discoveries(normal.with_tail(), none, 0.1)
    assert found.flagged == 0
    assert found.calibration.threshold(found.rate) > none.max()


def test_power_of_a_false_discovery_rate_is_stated_with_the_remedy():
    """The example of 40,000 tiles and 500 calibration tiles, whose groups are not known."""
    found = find_discoveries(Calibration.from_scores(np.arange(500.0)), np.r_[np.zeros(39_990), np.full(10, 900.0)], 0.1)
    assert (found.needed, found.reached, found.flagged) == (799, 10, 0)
    assert found.sentence.startswith(
        "A false discovery rate of 10% flags nothing unless 799 of 40,000 tiles reach the smallest p-value, 0.002, at once; "
        "10 do. It has no power to find fewer (finer p-values cannot be extrapolated: the groups"
    )
    assert found.sentence.endswith("set a false-positive rate, or calibrate on more normal tissue")


@given(st.integers(1, 300), st.sampled_from([0.05, 0.1, 0.3]))
def test_nothing_or_at_least_the_needed_number_of_tiles_is_flagged(count, fdr):
    scores = np.r_[np.full(count, 100.0), np.zeros(2000)]
    found = find_discoveries(Calibration.from_scores(np.arange(99.0)), scores, fdr)
    assert (found.flagged == 0) == (count < found.needed)
    assert found.flagged in (0, count)


def test_no_scored_tile_flags_nothing():
    found = find_discoveries(Calibration.from_scores(np.arange(99.0)), np.full(5, np.nan), 0.1)
    assert (found.tiles, found.flagged) == (0, 0)
