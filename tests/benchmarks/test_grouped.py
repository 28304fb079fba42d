import numpy as np
import pytest
from grouped import choose_groups, draw_weights, mean_interval, parts_of, weighted_auroc, within_groups
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score


def test_choose_groups_takes_each_choice_once_where_groups_are_few():
    groups = np.repeat(["a", "b", "c", "d", "e"], 3)
    chosen = [tuple(choose_groups(groups, seed)) for seed in range(10)]
    assert len(set(chosen)) == 10  # 5 choose 3
    assert {len(c) for c in chosen} == {3}
    assert tuple(choose_groups(groups, 10)) == chosen[0]


def test_choose_groups_gives_each_seed_another_choice_of_many_groups():
    groups = np.array([f"patient {k}" for k in range(60)])
    chosen = [tuple(choose_groups(groups, seed)) for seed in range(8)]
    assert len(set(chosen)) == 8
    assert {len(set(c)) for c in chosen} == {36}
    assert chosen[3] == tuple(choose_groups(groups[::-1], 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_weighted_auroc_is_that_of_repeated_tiles(seed, ties):
    rng = np.random.default_rng(seed)
    labels = rng.random(30) < 0.4
    labels[:2] = True, False
    scores = rng.integers(0, 6, 30).astype(float) if ties else rng.random(30)
    weights = rng.integers(0, 3, (4, 30)).astype(float)
    weights[:, :2] = 1
    expected = [roc_auc_score(np.repeat(labels, w), np.repeat(scores, w)) for w in weights.astype(int)]
    np.testing.assert_allclose(weighted_auroc(labels, scores, weights), expected)


def test_weighted_auroc_is_nan_without_tiles_of_a_label():
    assert np.isnan(weighted_auroc(np.array([True, False]), np.array([1.0, 0.0]), np.array([[0.0, 1.0]])))[0]


def _data():
    rng = np.random.default_rng(0)
    groups = np.repeat([f"g{k}" for k in range(30)], 10)
    labels = np.arange(300) < 120
    effect = np.repeat(rng.normal(0, 1, 30), 10)
    return labels, groups, effect, rng


def test_mean_interval_is_the_mean_of_runs_within_its_interval():
    labels, groups, effect, rng = _data()
    runs = [np.where(rng.random(300) < 0.2, np.nan, labels + effect + rng.normal(0, 0.1, 300)) for _ in range(3)]
    found = mean_interval(labels, runs, draw_weights(labels, groups, 200))
    kept = [~np.isnan(r) for r in runs]
    assert found.value == pytest.approx(np.mean([roc_auc_score(labels[k], r[k]) for k, r in zip(kept, runs, strict=True)]))
    assert found.low < found.value < found.high


def test_paired_difference_cancels_what_both_methods_share():
    labels, groups, effect, rng = _data()
    one = [labels + effect + rng.normal(0, 0.1, 300) for _ in range(3)]
    other = [0.5 * labels + effect + rng.normal(0, 0.1, 300) for _ in range(3)]
    weights = draw_weights(labels, groups, 200)
    apart = mean_interval(labels, one, weights, other)
    alone = mean_interval(labels, one, weights)
    assert apart.value > 0
    assert apart.high - apart.low < alone.high - alone.low
    same = mean_interval(labels, one, weights, one)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_parts_restrict_the_label_that_has_the_value():
    labels = np.array([False, False, False, True, True])
    columns = {
        "class": np.array(["healthy", "healthy", "adenoma", "cancer", "cancer"]),
        "magnification": np.array(["100x", "400x", "400x", "100x", "400x"]),
        "verified": np.array(["", "", "", "", ""]),
    }
    parts = {name: mask.tolist() for name, mask in parts_of(labels, columns).items()}
    assert parts == {
        "class adenoma": [False, False, True, True, True],
        "class healthy": [True, True, False, True, True],
        "magnification 100x": [True, False, False, True, False],
        "magnification 400x": [False, True, True, False, True],
    }


def test_within_groups_ignores_what_a_group_has_in_common():
    rng = np.random.default_rng(0)
    groups = np.repeat([f"patient {k}" for k in range(12)], 20)
    labels = np.arange(240) % 4 == 0
    apart = np.repeat(rng.normal(0, 50, 12), 20)
    run = labels + rng.normal(0, 0.5, 240) + apart
    assert roc_auc_score(labels, run) < 0.6
    found = within_groups(labels, groups, [run, np.where(groups == "patient 3", np.nan, run)])
    assert 0.85 < found.low < found.value < found.high
    assert within_groups(labels, np.where(labels, "a", "b"), [run]) is None
