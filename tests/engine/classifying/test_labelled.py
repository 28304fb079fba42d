"""Classes from folders, tables and outlines."""

import csv

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import box

from napari_histoad.engine import TrainingSource, gather_labelled_job, grouped_folds, labelled_sources, list_labelled_files
from napari_histoad.errors import RegionError, SettingsError, TooFewTilesError
from napari_histoad.jobs import run
from napari_histoad.regions import Region


def _write(path, shade=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 50), (shade, 150, shade)).save(path)


def _table(path, header, rows):
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)


def test_list_labelled_files_reads_a_folder_per_class(tmp_path):
    for name in ("tumour", "normal"):
        for k in range(9):
            _write(tmp_path / name / f"{k}.png")
    data = run(gather_labelled_job([TrainingSource(tmp_path)], 64, None))
    assert data.classes == ("normal", "tumour")
    assert data.tiles.images.shape == (18, 64, 64, 3)
    assert len(np.unique(data.tiles.groups)) == 18  # nothing says that some belong together
    assert np.bincount(data.labels).tolist() == [9, 9]


def test_list_labelled_files_groups_breast_idc_by_patient(tmp_path):
    for patient in (8863, 9023, 10253):
        for label in (0, 1):
            for k in range(4):
                _write(tmp_path / str(patient) / str(label) / f"{patient}_idx5_x{50 * k}_y1_class{label}.png")
    files = list_labelled_files(tmp_path)
    assert {file.group for file in files} == {"8863", "9023", "10253"}
    assert all(file.path.parent.name == file.class_name for file in files)
    data = run(gather_labelled_job([TrainingSource(tmp_path)], 64, None))
    assert data.classes == ("0", "1")
    assert len(np.unique(data.tiles.groups)) == 3


def test_list_labelled_files_reads_patchcamelyon(tmp_path):
    rows = [(f"tile{k}", k % 2) for k in range(20)]
    for name, _ in rows:
        (tmp_path / "train").mkdir(exist_ok=True)
        Image.new("RGB", (96, 96), "pink").save(tmp_path / "train" / f"{name}.tif")
    _table(tmp_path / "train_labels.csv", ["id", "label"], rows)
    data = run(gather_labelled_job([TrainingSource(tmp_path / "train_labels.csv")], 96, None))
    assert data.classes == ("0", "1")
    assert len(data.labels) == 20
    _table(tmp_path / "train_labels.csv", ["id", "label"], [("tile0", "-1")])
    with pytest.raises(SettingsError, match="line 2: label '-1' is neither"):
        list_labelled_files(tmp_path / "train_labels.csv")


def test_gather_labelled_job_reduces_larger_classes_of_a_manifest(tmp_path):
    rows = [(f"{k}.png", "stroma" if k < 40 else "normal", int(k < 40), k // 5) for k in range(52)]
    for name, *_ in rows:
        _write(tmp_path / name)
    _table(tmp_path / "manifest.csv", ["file", "class", "label", "group"], rows)
    data = run(gather_labelled_job([TrainingSource(tmp_path / "manifest.csv")], 64, None, max_tiles=30))
    assert data.classes == ("normal", "stroma")
    assert np.bincount(data.labels).tolist() == [12, 18]


def test_gather_labelled_job_reads_outlines_on_a_slide(sample):
    regions = [*sample.plan.normal, *(Region(r.geometry, "Anomaly") for r in sample.plan.planted)]
    data = run(gather_labelled_job([TrainingSource(sample.path, regions)], 64, 1.0, max_tiles=200))
    assert data.classes == ("Normal", "Anomaly")
    assert data.mpp == 1.0
    assert (np.bincount(data.labels) > 20).all()
    # What is held out together shares no pixel with the rest: each outline is a group of its own.
    for k in range(2):
        assert len(np.unique(data.tiles.groups[data.labels == k])) >= 2


def test_grouped_folds_split_no_group_and_hold_every_class():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 12, 200)
    labels = (groups % 3 == 0).astype(np.int64)
    seen = []
    for kept, held_out in grouped_folds(labels, groups, 5, 0):
        assert not set(groups[kept]) & set(groups[held_out])
        assert set(labels[kept]) == {0, 1}
        seen += held_out.tolist()
    assert len(seen) == len(set(seen))
    with pytest.raises(TooFewTilesError, match="come from one group"):
        list(grouped_folds(labels, labels, 5, 0))


def test_gather_labelled_job_refuses_sources_without_classes(tmp_path, sample):
    _write(tmp_path / "a" / "1.png")
    with pytest.raises(SettingsError, match="fewer than two classes"):
        list_labelled_files(tmp_path)
    with pytest.raises(SettingsError, match="only one class: Normal"):
        run(gather_labelled_job([TrainingSource(sample.path, sample.plan.normal)], 64, 1.0))
    tiny = [*sample.plan.normal, Region(box(900, 900, 940, 940), "Spot")]
    with pytest.raises((SettingsError, TooFewTilesError), match=r"only one class|Spot has only"):
        run(gather_labelled_job([TrainingSource(sample.path, tiny)], 64, 1.0))
    with pytest.raises(RegionError, match="1 slides but 0"):
        labelled_sources([sample.path], [])
