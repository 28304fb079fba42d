import numpy as np
import pytest
from leaks import hash_distances, number_of, relations, shares
from tile_sets import SETS, TileTable, read_images, read_set


def _table(files, groups, magnification=None):
    empty = np.array([""] * len(files))
    columns = {"class": empty, "magnification": empty if magnification is None else np.array(magnification), "verified": empty}
    return TileTable("made", np.array(files), np.zeros(len(files), bool), np.array(groups), columns)


@pytest.mark.parametrize(
    ("file", "expected"),
    [("a/Normal_100x_78.jpg", ("a/Normal_100x_", 78)), ("a/b_x3_y5.png", ("a/b_x3_y", 5)), ("a/cell.png", ("a/cell", -10))],
)
def test_number_of(file, expected):
    assert number_of(file) == expected


def test_relations_of_numbered_files_and_their_chance():
    files = [f"n_{k}.jpg" for k in range(10)]
    related = relations(_table(files, [k // 5 for k in range(10)], ["100x"] * 5 + ["400x"] * 5))
    rows = np.arange(10)
    found = shares(related, rows, np.array([1, 0, 3, 2, 5, 4, 7, 6, 9, 8]), rows)
    assert found["next number"] == (1.0, pytest.approx(18 / 90))
    assert found["group"] == (0.8, pytest.approx(40 / 90))
    assert found["magnification"] == found["group"]


def test_coordinates_in_names_are_no_numbers_of_a_series():
    related = relations(_table([f"{k}_x{k}_y5.png" for k in range(6)], ["a"] * 6))
    assert set(related) == {"group"}


def test_hash_distance_is_small_for_copies_and_large_for_others():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (6, 8, 8, 3), np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    brighter = np.clip(images.astype(int) + 8, 0, 255).astype(np.uint8)
    assert hash_distances(brighter, images).max() <= 4
    assert hash_distances(images[:3], images[3:]).min() > 10


def _write_set(folder, picture, names, head="file,label,group,class\n"):
    folder.mkdir(parents=True)
    lines = []
    for k, name in enumerate(names):
        picture(folder / name, k)
        lines.append(f"{name},{int('tumor' in name)},slide {k % 2},{name[:6]}\n")
    (folder / "manifest.csv").write_text(head + "".join(lines))


def test_sets_are_cut_and_grouped_in_strips(tmp_path, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)

    def picture(path, _):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(path)

    names = [f"normal_{y}_7.png" for y in (30, 10, 20, 40)] + ["tumor_5_5.png"]
    _write_set(tmp_path / "patches" / "made", picture, names)
    source = SETS["camelyon16"].__class__("made", 64, cut=2, strips=2)
    monkeypatch.setitem(SETS, "made", source)
    table, images = read_set(tmp_path, "made"), read_images(tmp_path, "made", 1024)
    assert images.shape == (20, 32, 32, 3)
    whole = np.asarray(Image.open(tmp_path / "patches" / "made" / names[1]))
    np.testing.assert_array_equal(images[4:8], [whole[:32, :32], whole[:32, 32:], whole[32:, :32], whole[32:, 32:]])
    assert table.groups[::4].tolist() == ["strip 1", "strip 0", "strip 0", "strip 1", "slide 0"]
    learnt = table.learnt(0)
    assert learnt.sum() == 8
    assert not learnt[table.labels].any()
    assert not table.new_to(learnt)[learnt].any()
