import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_histoad.calibration import Calibration, CalibrationBasis, check_valid_for, discovery_rate
from napari_histoad.errors import SettingsError, TooFewTilesError, TrainingError

scores = hnp.arrays(np.float32, st.integers(10, 80), elements=st.floats(-5, 5, width=16))


VALID_FOR = ("similar", "new-slide")


@st.composite
def grouped(draw):
    """Return scores and the slide of each."""
    values = draw(scores)
    return values, draw(hnp.arrays(np.int64, len(values), elements=st.integers(0, 6)))


def _calibration(values, slides, valid_for="new-slide", **basis):
    found = Calibration.from_scores(values, groups=slides, slides=slides, basis=CalibrationBasis("slides", **basis))
    return found.made_valid_for(valid_for)


queries = hnp.arrays(np.float32, 30, elements=st.floats(-6, 6, width=16))


@given(grouped(), queries, st.integers(1, 999), st.sampled_from(VALID_FOR))
def test_threshold_flags_exactly_the_scores_whose_p_value_is_at_most_the_rate(normals, query, thousandths, valid_for):
    calibration, rate = _calibration(*normals, valid_for), thousandths / 1000
    by_p = calibration.p_value(query).astype(float) <= rate + 1e-7
    assert np.array_equal(by_p, query > calibration.threshold(rate))


@given(grouped(), st.sampled_from(VALID_FOR))
def test_p_values_are_in_range_fall_with_the_score_and_keep_nan(normals, valid_for):
    calibration = _calibration(*normals, valid_for)
    p = calibration.p_value(np.linspace(-7, 7, 50))
    assert (np.diff(p) <= 0).all()
    assert p.min() == pytest.approx(calibration.smallest_rate)
    assert p.max() == 1
    assert np.array_equal(np.isnan(calibration.p_value(np.array([[np.nan, 0.0]]))), [[True, False]])


@given(grouped(), st.randoms(use_true_random=False))
def test_p_values_for_a_new_slide_depend_on_no_order_and_no_number(normals, random):
    values, slides = normals
    order = list(range(len(values)))
    random.shuffle(order)
    query = np.linspace(-6, 6, 25)
    before = _calibration(values, slides).p_value(query)
    assert _calibration(values[order], 100 - 7 * slides[order]).p_value(query) == pytest.approx(before)


@given(grouped(), st.integers(0, 6), st.integers(2, 5))
def test_copies_of_a_slides_tiles_do_not_change_p_values_for_a_new_slide(normals, slide, times):
    values, slides = normals
    counts = np.where(slides == slide, times, 1)
    query = np.linspace(-6, 6, 25)
    before, after = (_calibration(np.repeat(values, n), np.repeat(slides, n)) for n in (1, counts))
    assert after.p_value(query) == pytest.approx(before.p_value(query))


@given(scores)
def test_with_one_tile_per_slide_both_p_values_are_equal(normals):
    query = np.linspace(-6, 6, 25)
    similar, new = (_calibration(normals, np.arange(len(normals)), valid_for) for valid_for in VALID_FOR)
    assert np.array_equal(similar.p_value(query), new.p_value(query))
    assert similar.threshold(0.2) == new.threshold(0.2)


@given(grouped(), st.integers(0, 2**32 - 1))
def test_p_value_for_a_new_slide_is_a_quantile_over_draws_of_one_tile_per_slide(normals, seed):
    values, slides = normals
    ids, rng = np.unique(slides), np.random.default_rng(seed)
    query = np.linspace(-6, 6, 25)
    drawn = np.stack([rng.choice(values[slides == i], 4000) for i in ids])
    p = (1 + (drawn[..., None] >= query).sum(0)) / (len(ids) + 1)
    found = _calibration(values, slides).p_value(query)
    assert ((p <= found + 1e-6).mean(0) >= np.exp(-1) - 0.05).all()  # 4000 draws are within 5% of all
    assert ((p < found - 1e-6).mean(0) <= np.exp(-1) + 0.05).all()


def _new_slides_flagged(slides, valid_for, rate, draws, tiles=40):
    """Return the mean rate over new slides, at which their normal tiles are flagged; half of the variance is between slides."""
    rng, rates = np.random.default_rng(0), []
    for _ in range(draws):
        shift, noise = rng.normal(size=(slides + 1, 1)), rng.normal(size=(slides + 1, tiles))
        drawn = (shift + noise) / np.sqrt(2)
        calibration = _calibration(drawn[1:].ravel(), np.repeat(np.arange(slides), tiles), valid_for)
        rates.append((drawn[0] > calibration.threshold(rate)).mean())
    return np.mean(rates)


def test_rate_for_a_new_slide_holds_on_average_with_20_slides_and_none_is_promised_with_4():
    assert 0.03 < _new_slides_flagged(20, "new-slide", 0.05, 400) < 0.07
    assert _new_slides_flagged(4, "similar", 0.05, 400) > 0.08  # tile by tile the rate does not hold on new slides
    few = _calibration(np.arange(160.0), np.repeat(np.arange(4), 40), "new-slide", sources=4)
    assert few.threshold(0.05) == np.inf
    remedy = "outline normal tissue on this slide to recalibrate"
    assert few.nothing_flagged(0.05) == f"Nothing is flagged: 4 slides support no rate below 20.00% for a new slide; {remedy}"
    assert few.explain_rate(0.05) == few.nothing_flagged(0.05)
    assert few.basis.missing.startswith("With 4 slides no rate below 20.0% can be promised for a new slide; outline normal")
    assert few.describe("b").endswith(few.basis.missing)
    assert "not for a new slide, for which 4 slides support no rate below 20.0%; outline normal tissue on it" in few.note


def test_unknown_slides_give_no_rate_for_a_new_slide():
    for slides in (None, np.r_[-1, np.zeros(39)]):
        found = Calibration.from_scores(np.arange(40.0), slides=slides, basis=CalibrationBasis("tile files", names=("a.svs",)))
        assert found.slides is None
        with pytest.raises(SettingsError, match="not known"):
            found.made_valid_for("new-slide")
        assert found.usual_validity("b.svs") == "similar"
        assert "not known, so no rate can be promised for a new slide" in found.describe("b.svs")
    with pytest.raises(SettingsError, match="known are similar, new-slide"):
        check_valid_for("all")


@pytest.mark.parametrize(("slides", "slide", "usual"), [(20, "b", "new-slide"), (20, "a", "similar"), (19, "b", "similar")])
def test_usual_validity_is_a_new_slide_where_the_slide_is_new_and_slides_are_enough(slides, slide, usual):
    found = _calibration(np.arange(10.0 * slides), np.arange(10 * slides) % slides, "similar", sources=slides, names=("a", "c"))
    assert found.usual_validity(slide) == usual
    assert found.covers(slide) is (slide == "a")
    chosen = found.made_valid_for(usual)
    words = chosen.describe(slide)
    assert ("valid, on average, for a new slide" in words) is (usual == "new-slide")
    assert ("19 slides no rate below 5.0% can be promised" in words) is (slides == 19)
    assert ("each of which counts equally" in chosen.explain_rate(0.1)) is (usual == "new-slide")
    assert ("which this slide may not be" in chosen.whom(slide)) is (slides == 19)
    other = found.made_valid_for("similar").describe("b")
    assert ("choose rates for a new slide" in other) is (slides == 20)


def test_rate_interval_is_that_of_groups_left_out_in_turn():
    """Ten outlines score alike, one higher than all others, one has too few tiles to be judged by."""
    values = np.r_[np.tile(np.arange(20.0), 10), np.arange(100.0, 120), np.arange(3.0)]
    outlines = np.repeat(np.arange(12), [20] * 11 + [3])
    basis = CalibrationBasis("outlines", outlined=True, sources=1)
    found = Calibration.from_scores(values, groups=outlines, slides=0 * outlines, basis=basis)
    interval = found.rate_interval(0.05)
    assert (interval.low, interval.high, interval.groups) == (0.0, 1.0, 11)
    assert str(interval) == "5% nominal; 0.0–100.0% over 11 outlines"
    assert found.explain_rate(0.05).endswith(interval.sentence)
    assert found.made_valid_for("new-slide").rate_interval(0.6) is None  # one slide
    assert Calibration.from_scores(values).rate_interval(0.05) is None


@pytest.mark.parametrize("valid_for", VALID_FOR)
def test_rate_interval_leaves_out_a_tenth_of_many_groups(valid_for):
    rng = np.random.default_rng(0)
    found = _calibration(rng.normal(size=1000), np.repeat(np.arange(50), 20), valid_for)
    interval = found.rate_interval(0.1)
    assert 0 <= interval.low < 0.1 < interval.high < 0.4
    assert str(interval).endswith("over 90% of 50 slides")


def test_arrays_give_the_same_calibration_and_scores_alone_one_without_groups():
    found = _calibration(np.array([3.0, 1, 2] * 5), np.arange(15) // 5, "similar")
    again = Calibration.from_arrays(found.arrays, found.basis)
    assert all(np.array_equal(found.arrays[name], values) for name, values in again.arrays.items())
    assert again.arrays.keys() == {"scores", "groups", "slides"}
    old = Calibration.from_arrays({"scores": np.array([2.0, 1.0])}, None)
    assert old.arrays.keys() == {"scores"}
    assert old.scores.tolist() == [1, 2]
    with pytest.raises(ValueError, match="differ in number"):
        Calibration.from_arrays({"scores": np.arange(3.0), "groups": np.arange(2)}, None)


def test_threshold_keeps_the_false_positive_rate_on_exchangeable_scores():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        draw = rng.gamma(2, 1, 400)
        calibration = Calibration.from_scores(draw[:200])
        rates.append((calibration.p_value(draw[200:]) <= 0.05).mean())
    assert 0.03 < np.mean(rates) < 0.07


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
    slides = groups if grouping == "slides" else 0 * groups
    return Calibration.from_scores(np.arange(len(groups)), robust=robust, groups=groups, slides=slides, basis=basis).basis


def test_basis_counts_tiles_groups_and_slides_and_states_what_its_rates_are_valid_for():
    basis = _basis(np.arange(2000) // 250)
    assert (basis.tiles, basis.groups, basis.slides) == (2000, 8, 1)
    assert basis.sentence == (
        "Rates are based on 2,000 held-out normal tiles of 8 outlines of one slide: "
        "they are valid for tissue like that outlined, not for a new slide; outline normal tissue on it to recalibrate"
    )
    assert "%" not in basis.sentence


@pytest.mark.parametrize(("slides", "promised"), [(2, False), (19, False), (20, True), (200, True)])
def test_basis_states_a_rate_for_new_slides_only_with_enough_slides(slides, promised):
    basis = _basis(np.arange(slides * 10) // 10, "slides", sources=slides, outlined=False)
    assert ("for new slides like these" in basis.sentence) is promised
    assert ("not for a new slide" in basis.sentence) is not promised
    assert f"{1 / (slides + 1):.1%}" in basis.sentence


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


def test_regions_get_the_threshold_of_tiles_where_cells_of_the_map_do_not_support_the_rate():
    tiles, cells = Calibration.from_scores(np.arange(1000.0)), Calibration.from_scores(np.arange(50.0))
    both = Calibration(tiles.scores, field=cells)
    assert both.field_threshold(0.1) == cells.threshold(0.1)
    assert both.field_threshold(0.01) == tiles.threshold(0.01)
    assert tiles.field_threshold(0.1) == tiles.threshold(0.1)
