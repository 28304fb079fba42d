import sys

import accuracy
import numpy as np
import pytest
from accuracy import METHODS, measure, scores_file
from PIL import Image
from rows import read_rows
from tile_sets import SETS, read_set


@pytest.fixture
def made_set(tmp_path, monkeypatch):
    """A set of 12 patients with 5 normal and 3 darker, anomalous tiles each."""
    folder = tmp_path / "patches" / "made"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["file,class,label,group,magnification"]
    for k in range(96):
        label = int(k % 8 > 4)
        Image.fromarray(rng.integers(60 - 40 * label, 200 - 40 * label, (32, 32, 3), np.uint8)).save(folder / f"t_{k}.png")
        lines.append(f"t_{k}.png,{'tumour' if label else 'normal'},{label},patient {k // 8},{'10x' if k % 2 else '20x'}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    monkeypatch.setitem(SETS, "made", SETS["oral"].__class__("made", 32))
    return tmp_path


def test_measure_scores_all_tiles_that_were_not_trained_on(made_set):
    row, scores = measure(METHODS["colour"], made_set, "made", 1, 0.0, None)
    np.testing.assert_array_equal(np.isnan(scores), read_set(made_set, "made").learnt(1))
    assert row["auroc"] > 0.9
    _, mixed = measure(METHODS["colour"], made_set, "made", 1, 0.2, None)
    learnt = np.isnan(mixed)
    assert read_set(made_set, "made").labels[learnt].mean() == pytest.approx(0.2, abs=0.02)


def test_script_continues_from_its_csv_and_prints_tables(made_set, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.csv"
    options = ["--data", made_set, "--methods", "colour", "--sets", "made", "--out", out]
    for seeds in (1, 2, 2):
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *map(str, options), "--seeds", str(seeds)])
        accuracy.main()
    assert [row["seed"] for row in read_rows(out)] == ["0", "1"]
    assert scores_file(out, read_rows(out)[1]).exists()
    printed = capsys.readouterr().out
    for text in (
        "made (12 + 12 groups)",
        "made: new groups only",
        "made: within new groups",
        "made: magnification 10x",
        "split by group",
    ):
        assert text in printed
