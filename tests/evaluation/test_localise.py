import numpy as np
import pytest
from map_makers import fill_evenly, finish, make_map, scored_block
from shapely.geometry import box
from sklearn.metrics import average_precision_score, roc_auc_score

from napari_histoad import evaluate
from napari_histoad.evaluation import binned_auroc, binned_average_precision, binned_interval
from napari_histoad.maps import BLOCK_TILES, MapWriter
from napari_histoad.regions import Region


@pytest.mark.parametrize("ties", [False, True])
def test_binned_metrics_are_close_to_the_exact_ones(ties):
    rng = np.random.default_rng(0)
    labels = rng.random(30_000) < 0.1
    scores = (labels + rng.normal(0, 1, 30_000)).round(0 if ties else 6)
    groups = rng.integers(0, 40, 30_000)
    for binned, exact in ((binned_auroc, roc_auc_score), (binned_average_precision, average_precision_score)):
        found = binned_interval(binned, labels, scores, groups)
        assert found.value == pytest.approx(exact(labels, scores), abs=1e-3)
        assert found.low < found.value < found.high


def test_binned_interval_is_none_for_one_label():
    assert binned_interval(binned_auroc, np.zeros(9, bool), np.arange(9.0), np.arange(9)) is None


def _map_with(folder, lesion, elsewhere=()):
    """Return a map whose tiles in a lesion score 0.999, in other boxes 1.5 and 0.5 elsewhere."""
    result = make_map(folder, shape=(1280, 1280), stride_px=64)
    centres = result.origins + result.info.tile_l0 / 2
    scores = np.full(len(result), 0.5, np.float32)
    for area, value in [(lesion, 0.999), *((other, 1.5) for other in elsewhere)]:
        y0, x0, y1, x1 = area.bounds
        scores[((centres > (y0, x0)) & (centres < (y1, x1))).all(axis=1)] = value
    with MapWriter(result) as writer:
        for block in range(result.block_count):
            writer.add(scored_block(block, scores[block * BLOCK_TILES : (block + 1) * BLOCK_TILES]))
    finish(result)
    return result


LESION = box(128, 128, 384, 384)
BESIDE = box(896, 896, 960, 960)


def test_a_perfect_map_finds_everything_without_false_alarms(tmp_path):
    found = evaluate(_map_with(tmp_path / "a.ome.zarr", LESION), [Region(LESION, "Tumor")], rate=0.02)
    assert found.cell_auroc.value == found.cell_average_precision.value == pytest.approx(1)
    assert (found.lesions_found, found.false_regions_per_mm2, found.froc) == (1, 0, 1)
    assert set(found.found_per_mm2.values()) == {1}
    assert (found.area_flagged, found.normal_area_flagged) == (1, 0)
    assert dict(found.rows())["Area flagged"] == "100.0% of anomalies, 0.0% of normal tissue"


def test_false_alarms_are_counted_per_mm2_of_normal_tissue(tmp_path):
    result = _map_with(tmp_path / "a.ome.zarr", LESION, [BESIDE])
    lesion = Region(LESION, "Tumor")
    found = evaluate(result, [lesion], rate=0.02)
    normal_mm2 = (1280**2 - 256**2) * 0.25 / 1e6
    assert found.false_regions_per_mm2 == pytest.approx(1 / normal_mm2)
    assert found.normal_area_flagged == pytest.approx(64**2 / (1280**2 - 256**2))
    # The one false alarm scores highest: the lesion is found where one is allowed.
    assert found.found_per_mm2 == {0.1: 0, 1.0: 0, 10.0: 1}
    assert found.froc == pytest.approx(4 / 6)
    assert found.cell_auroc.value == pytest.approx(1 - 64**2 / (1280**2 - 256**2))
    left_out = evaluate(result, [lesion], rate=0.02, exclude=[Region(BESIDE, "Normal")])
    assert (left_out.false_regions_per_mm2, left_out.froc, left_out.cell_auroc.value) == (0, 1, 1)
    undecided = evaluate(result, [lesion, Region(BESIDE, "Ignore*")], rate=0.02)
    assert (undecided.false_regions_per_mm2, undecided.froc) == (0, 1)


def test_a_flagged_region_as_large_as_the_slide_shows_in_the_area(tmp_path):
    found = evaluate(_map_with(tmp_path / "a.ome.zarr", LESION, [box(0, 0, 1280, 1280)]), [Region(LESION, "Tumor")], rate=0.02)
    assert (found.lesions_found, found.false_regions_per_mm2) == (1, 0)
    assert found.normal_area_flagged == found.area_flagged == 1


def test_a_lesion_smaller_than_a_cell_counts_as_one(tmp_path):
    result = _map_with(tmp_path / "a.ome.zarr", LESION)
    found = evaluate(result, [Region(box(201, 201, 204, 204), "Tumor")], rate=0.02)
    assert found.cell_auroc is not None


def test_a_map_of_equal_scores_says_nothing(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr", shape=(1280, 1280))
    fill_evenly(result, lambda n: np.full(n, 0.5))
    finish(result)
    found = evaluate(result, [Region(LESION, "Tumor")])
    assert found.cell_auroc.value == pytest.approx(0.5)
    assert found.lesions_found == 0
