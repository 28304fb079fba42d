import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_histoad.calibration import Calibration, CalibrationBasis, discovery_rate
from napari_histoad.errors import SettingsError, TooFewTilesError, TrainingError

scores = hnp.arrays(np.float32, st.integers(10, 80), elements=st.floats(-5, 5, width=16))


@given(scores, hnp.arrays(np.float32, 30, elements=st.floats(-6, 6, width=16)), st.floats(0.001, 0.999))
def test_threshold_flags_exactly_the_scores_whose_p_value_is_at_most_the_rate(normals, query, rate):
    calibration = Calibration.from_scores(normals)
    by_p = calibration.p_value(query).astype(float) <= rate + 1e-7
    assert np.array_equal(by_p, query > calibration.threshold(rate))


@given(scores)
def test_p_value_falls_with_the_score_and_stays_in_range(normals):
    calibration = Calibration.from_scores(normals)
    p = calibration.p_value(np.linspace(-7, 7, 50))
    assert (np.diff(p) <= 0).all()
    assert p.min() >= calibration.smallest_rate * 0.999
    assert p.max() <= 1


def test_threshold_keeps_the_false_positive_rate_on_exchangeable_scores():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        draw = rng.gamma(2, 1, 400)
        calibration = Calibration.from_scores(draw[:200])
        rates.append((calibration.p_value(draw[200:]) <= 0.05).mean())
    assert 0.03 < np.mean(rates) < 0.07


def test_p_value_of_nan_is_nan():
    assert np.isnan(Calibration.from_scores(np.arange(20)).p_value(np.array([np.nan])))[0]


def test_from_scores_refuses_too_few_tiles():
    with pytest.raises(TooFewTilesError, match="outline more"):
        Calibration.from_scores([1.0] * 9)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2])
def test_threshold_refuses_rates_outside_0_to_1(rate):
    with pytest.raises(SettingsError, match="between 0 and 1"):
        Calibration.from_scores(np.arange(20)).threshold(rate)


@pytest.mark.parametrize(("n", "rate"), [(20, 1 / 21), (99, 0.01), (5000, 0.01)])
def test_default_rate_is_never_below_the_smallest_rate(n, rate):
    calibration = Calibration.from_scores(np.arange(n))
    assert calibration.default_rate == pytest.approx(rate)
    assert np.isfinite(calibration.threshold(calibration.default_rate))
    assert calibration.p_value(np.array([n + 1.0]))[0] <= calibration.default_rate


def test_robust_calibration_leaves_out_a_few_anomalies():
    rng = np.random.default_rng(0)
    normals, anomalies = rng.gamma(8, 1, 400), rng.uniform(300, 400, 40)
    mixed = np.concatenate([normals, anomalies])
    plain, robust = (Calibration.from_scores(mixed, robust=r) for r in (False, True))
    assert (plain.p_value(anomalies) <= 0.01).mean() < 0.1
    assert (robust.p_value(anomalies) <= 0.01).all()
    assert (robust.p_value(normals) <= 0.01).mean() <= 0.01


@given(scores)
def test_robust_calibration_keeps_three_quarters(normals):
    for values in (normals, np.abs(normals)):
        calibration = Calibration.from_scores(np.tile(values, 4), robust=True)
        assert len(calibration.scores) >= 3 * len(normals)


def test_discovery_rate_keeps_the_false_discovery_rate():
    """Half the tiles of a slide are anomalous; of what is flagged at 20%, a fifth at most is normal on average."""
    rng = np.random.default_rng(0)
    shares, found = [], []
    for _ in range(200):
        calibration = Calibration.from_scores(rng.normal(size=500))
        truth = np.arange(200) < 100
        p = calibration.p_value(rng.normal(size=200) + 2.5 * truth)
        flagged = p <= discovery_rate(p, 0.2)
        shares.append((flagged & ~truth).sum() / max(1, flagged.sum()))
        found.append((flagged & truth).mean() * 2)
    assert np.mean(shares) < 0.2
    assert np.mean(found) > 0.6


def test_discovery_rate_flags_nothing_among_normal_tiles():
    p = np.linspace(0.3, 1, 50)
    assert not (p <= discovery_rate(p, 0.1)).any()
    with pytest.raises(SettingsError, match="discovery rate"):
        discovery_rate(p, 1.5)


@given(hnp.arrays(np.float32, 40, elements=st.floats(0.0078125, 1, width=32)), st.floats(0.01, 0.5), st.floats(0.01, 0.49))
def test_discovery_rate_grows_with_fdr(p, low, more):
    assert discovery_rate(p, low) <= discovery_rate(p, low + more) + 1e-9


def test_drift_warning_names_slides_whose_scores_differ_as_a_whole():
    rng = np.random.default_rng(0)
    calibration = Calibration.from_scores(rng.normal(size=300))
    assert calibration.drift_warning(rng.normal(size=400)) is None
    tumour = np.concatenate([rng.normal(size=300), rng.normal(size=100) + 5])
    assert calibration.drift_warning(tumour) is None  # a quarter abnormal is no drift
    for shift in (2, -2):
        assert "recalibrate" in calibration.drift_warning(rng.normal(size=400) + shift)
    assert calibration.drift_warning(rng.normal(size=5) + 9) is None
    assert calibration.drift(np.full(100, np.nan)) is None


def _basis(groups, grouping="outlines", doubts=(), sources=1, outlined=True, robust=False):
    basis = CalibrationBasis(grouping, outlined, doubts, sources)
    return Calibration.from_scores(np.arange(len(groups)), robust=robust, groups=groups, basis=basis).basis


def test_basis_counts_tiles_and_groups_and_states_what_its_rates_are_valid_for():
    basis = _basis(np.arange(2000) // 250)
    assert (basis.tiles, basis.groups) == (2000, 8)
    assert basis.sentence == (
        "Rates are based on 2,000 held-out normal tiles of 8 outlines of one slide: "
        "they are valid for tissue like that outlined, not for a new slide"
    )
    assert "%" not in basis.sentence


@pytest.mark.parametrize(("slides", "promised"), [(2, False), (19, False), (20, True), (200, True)])
def test_basis_states_a_rate_for_new_slides_only_with_enough_slides(slides, promised):
    basis = _basis(np.arange(slides * 10) // 10, "slides", sources=slides, outlined=False)
    assert ("for new slides like these" in basis.sentence) is promised
    assert ("not for a new slide" in basis.sentence) is not promised
    assert (f"{1 / (slides + 1):.1%}" in basis.sentence) is promised


@pytest.mark.parametrize("doubt", ["self", "refined", "mixed"])
def test_basis_with_doubts_says_that_rates_are_approximate(doubt):
    basis = _basis(np.arange(400) // 4, "slides", (doubt,), 100)
    assert basis.approximate
    assert "are approximate: " in basis.sentence
    assert "hold" not in basis.sentence.replace("held-out", "").replace("may hold lesions", "")


def test_basis_of_tile_files_assumes_that_they_are_independent():
    assert "if the files are independent of each other" in _basis(np.arange(50), "tile files", outlined=False).sentence


def test_basis_of_one_group_uses_the_singular():
    assert "of 1 outline of one slide:" in _basis(np.zeros(20)).sentence
    assert "of 1 group of tile files:" in _basis(np.zeros(20), "groups of tile files", outlined=False).sentence


def test_robust_calibration_does_not_count_groups_of_outliers_only():
    values = np.array([*np.linspace(1, 2, 40), 1e6])
    groups = np.array([*np.arange(40) // 10, 9])
    basis = Calibration.from_scores(values, robust=True, groups=groups, basis=CalibrationBasis("slides")).basis
    assert (basis.tiles, basis.groups) == (40, 4)


def test_calibration_without_a_basis_says_that_it_was_not_recorded():
    note = Calibration.from_scores(np.arange(20)).note
    assert "not recorded" in note
    assert not any(c.isdigit() for c in note)


@given(scores, st.floats(1e-4, 0.5))
def test_explain_rate_is_true_of_the_calibration_tiles(normals, rate):
    calibration = Calibration.from_scores(normals)
    words = calibration.explain_rate(rate)
    if words.startswith("Nothing"):
        assert calibration.threshold(rate) == np.inf
    else:
        assert (normals > calibration.threshold(rate)).mean() <= rate + 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_from_scores_refuses_scores_that_are_not_finite(bad):
    with pytest.raises(TrainingError, match=r"3 of 33 normal tiles have no finite score; .*lower learning rate"):
        Calibration.from_scores([1.0] * 30 + [bad] * 3)
