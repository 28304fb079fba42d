import numpy as np
import pytest

from napari_histoad import open_slide, read_regions
from napari_histoad.errors import OutputError, SettingsError
from napari_histoad.samples import ANOMALY_NAMES, SlidePlan, sample_job, write_sample
from napari_histoad.samples._draw import draw_block


def test_draw_block_fits_adjacent_blocks_without_seams():
    plan = SlidePlan(4096)
    whole = draw_block(plan, 1800, 1500, 300, 400)
    parts = np.concatenate([draw_block(plan, 1800, 1500, 300, 170), draw_block(plan, 1800, 1670, 300, 230)], axis=1)
    assert np.abs(whole.astype(int) - parts).max() <= 2


def test_draw_block_depends_only_on_seed_and_position():
    one, same, other = (draw_block(SlidePlan(2048, seed), 900, 900, 128, 128) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert np.abs(one.astype(int) - other).mean() > 3


def test_draw_block_draws_any_place_of_a_giant_slide():
    block = draw_block(SlidePlan(100_000), 50_000, 50_000, 64, 64)
    assert block.shape == (64, 64, 3)
    assert block.std() > 5


@pytest.mark.parametrize("size", [1000, 100_001])
def test_slide_plan_refuses_sizes_out_of_range(size):
    with pytest.raises(SettingsError, match="1,024 to 100,000"):
        SlidePlan(size)


def test_slide_plan_separates_planted_and_normal_outlines():
    plan = SlidePlan(8192)
    assert {r.name for r in plan.planted} == set(ANOMALY_NAMES)
    assert len(plan.normal) >= 5
    for normal in plan.normal:
        assert all(normal.geometry.distance(r.geometry) > 0 for r in plan.planted)
    assert not SlidePlan(8192, anomalies=False).planted


def test_anomalies_change_pixels_only_inside_their_outlines():
    with_, without = SlidePlan(2048), SlidePlan(2048, anomalies=False)
    region = with_.planted[0].geometry
    y, x = (int(v) for v in region.centroid.coords[0])
    a, b = draw_block(with_, y - 32, x - 32, 64, 64), draw_block(without, y - 32, x - 32, 64, 64)
    assert np.abs(a.astype(int) - b).mean() > 3
    far = with_.normal[0].geometry.centroid.coords[0]
    y, x = (int(v) for v in far)
    assert np.array_equal(draw_block(with_, y - 32, x - 32, 64, 64), draw_block(without, y - 32, x - 32, 64, 64))


def test_write_sample_writes_a_pyramid_with_resolution_and_outlines(sample):
    with open_slide(sample.path) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert [level.shape for level in slide.levels] == [(2048, 2048), (512, 512)]
        fine = slide.read(0, 900, 900, 400, 400).reshape(100, 4, 100, 4, 3).mean((1, 3))
        assert np.abs(fine - slide.read(1, 225, 225, 100, 100)).mean() < 4
    truth = read_regions(sample.path.with_name("sample.truth.geojson"))
    assert [r.geometry.area for r in truth] == pytest.approx([r.geometry.area for r in sample.plan.planted])


def test_write_sample_leaves_no_file_if_writing_fails(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_sample(tmp_path / "file" / "sample.tif", 1024)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_write_sample_leaves_no_file_if_cancelled(tmp_path):
    job = sample_job(tmp_path / "sample.tif", SlidePlan(4096))
    for progress in job:
        if progress.done == 2:
            break
    job.close()
    assert list(tmp_path.iterdir()) == []
