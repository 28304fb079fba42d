import json

import numpy as np
import pytest

from napari_histoad.evaluation import evaluate_scores, group_draws


def _scored(classes):
    rng = np.random.default_rng(0)
    names = np.array(classes * 40)
    labels = np.isin(names, ["polyp", "cancer"])
    scores = np.select([names == "cancer", names == "polyp"], [3.0, 0.5]) + rng.normal(0, 1, len(names))
    groups = np.arange(len(names)) // 8
    return labels, scores, np.where(scores > 2, 0.001, 0.5), groups, names.tolist()


def test_each_class_is_measured_against_the_opposite_label():
    labels, scores, p_values, groups, names = _scored(["healthy", "scar", "polyp", "cancer"])
    found = evaluate_scores(labels, scores, p_values, groups, classes=names)
    assert list(found.by_class) == ["healthy", "scar", "cancer", "polyp"]
    assert found.by_class["cancer"].auroc.value > 0.95 > found.by_class["polyp"].auroc.value
    assert found.by_class["cancer"].flagged > found.by_class["polyp"].flagged
    assert [figures.anomalous for figures in found.by_class.values()] == [False, False, True, True]
    assert np.mean([found.by_class[n].auroc.value for n in ("cancer", "polyp")]) == pytest.approx(found.auroc.value)
    for figures in found.by_class.values():
        assert figures.tiles == 40
        assert figures.auroc.low <= figures.auroc.value <= figures.auroc.high
    assert "AUROC" in dict(found.rows())["cancer"]
    assert json.loads(json.dumps(found.to_json()))["by_class"]["polyp"]["tiles"] == 40


def test_two_classes_need_no_figures_of_their_own():
    labels, scores, p_values, groups, names = _scored(["healthy", "cancer"])
    assert evaluate_scores(labels, scores, p_values, groups, classes=names).by_class == {}
    assert evaluate_scores(labels, scores, p_values, groups).by_class == {}


def test_a_class_with_both_labels_counts_twice():
    labels, scores, p_values, groups, names = _scored(["healthy", "scar", "polyp", "cancer"])
    names = ["colon" if name in ("scar", "polyp") else name for name in names]
    found = evaluate_scores(labels, scores, p_values, groups, classes=names)
    assert set(found.by_class) == {"healthy", "colon (normal)", "colon (anomalous)", "cancer"}


def test_group_draws_keep_the_number_of_groups_of_each_kind():
    groups = np.repeat(np.arange(9), 4)
    labels = (groups < 3) | ((groups >= 6) & (np.arange(36) % 2 == 0))  # 3 anomalous, 3 normal, 3 with both
    draws = np.array(list(group_draws(labels, groups, draws=50)))
    by_group = draws[:, ::4]
    np.testing.assert_array_equal(draws, by_group.repeat(4, axis=1))
    np.testing.assert_array_equal(by_group.reshape(50, 3, 3).sum(2), 3)
    assert len(np.unique(by_group, axis=0)) > 25
