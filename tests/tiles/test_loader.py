import threading

import numpy as np
import pytest
from PIL import Image

from napari_histoad import open_slide
from napari_histoad.errors import SettingsError, SlideError, TooFewTilesError
from napari_histoad.tiles import TileGrid, TileLoader, TileSet, read_tile_files, sample_tiles
from napari_histoad.tiles._set import _blocks, list_tile_files


@pytest.fixture
def slide(write_tiff):
    image = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    with open_slide(write_tiff(image)) as opened:
        yield opened


@pytest.mark.parametrize("batch", [1, 4, 7, 100])
def test_batches_hold_the_pixels_of_their_tiles_in_order(slide, batch):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=50, mpp=0.5)
    seen = []
    for part in TileLoader(slide, grid, batch=batch):
        for row, image in zip(part.index, part.images, strict=True):
            y, x = (int(v) for v in grid.origins[row])
            assert np.array_equal(image, slide.read(0, y, x, 50, 50))
        seen += part.index.tolist()
    assert seen == list(range(len(grid)))


def test_stopping_early_lets_the_threads_go(slide):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=20, mpp=0.5)
    batches = iter(TileLoader(slide, grid, batch=2))
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_tiles_that_cannot_be_decoded_are_named_and_white(slide, monkeypatch):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=50, mpp=0.5)
    real = type(slide).read_scaled

    def broken(self, y, x, *rest, **options):
        if (y, x) == (50, 50):
            raise SlideError("broken tile")
        return real(self, y, x, *rest, **options)

    monkeypatch.setattr(type(slide), "read_scaled", broken)
    loader = TileLoader(slide, grid, batch=5)
    failed = {int(i): img.mean() for b in loader for i, img, f in zip(b.index, b.images.copy(), b.failed, strict=True) if f}
    assert failed == {7: 255.0}
    assert len(loader.errors) == 1


def test_split_keeps_groups_whole():
    rng = np.random.default_rng(0)
    tiles = TileSet(np.zeros((200, 8, 8, 3), np.uint8), rng.integers(0, 12, 200))
    kept, held_out = tiles.split(0.25, rng)
    assert not set(tiles.groups[kept]) & set(tiles.groups[held_out])
    assert 20 < len(held_out) < 90
    assert len(kept) + len(held_out) == 200
    with pytest.raises(TooFewTilesError, match="second place"):
        TileSet(tiles.images, np.zeros(200, np.int64)).split(0.25, rng)


def test_sampled_tiles_of_one_group_are_neighbours(slide):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=20, mpp=0.5)
    tiles = sample_tiles(slide, grid, 60, np.random.default_rng(0))
    assert tiles.images.shape == (60, 20, 20, 3)
    assert 4 < len(np.unique(tiles.groups)) < 60


def test_overlapping_tiles_of_different_groups_share_no_pixel(slide):
    grid = TileGrid.cover(slide.shape, 0.5, tile_px=24, mpp=0.5, stride_px=6)
    blocks, whole = _blocks(grid)
    boxes, groups = grid.boxes[whole], blocks[whole]
    assert len(np.unique(groups)) >= 4
    assert whole.mean() > 0.3
    for group in np.unique(groups):
        mine, others = boxes[groups == group], boxes[groups != group]
        apart = (others[:, None, :2] >= mine[None, :, 2:]) | (others[:, None, 2:] <= mine[None, :, :2])
        assert apart.any(axis=2).all()


def test_tile_files_from_folder_and_manifest(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (9, 8, 7)).save(tmp_path / name)
    assert [f.group for f in list_tile_files(tmp_path)] == ["a", "a", "b"]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,label,group\na/1.png,0,p1\nb/3.png,1,p2\n")
    files = list_tile_files(manifest)
    assert [f.label for f in files] == [0, 1]
    assert read_tile_files(files, 32).images[0, 0, 0].tolist() == [9, 8, 7]
    with pytest.raises(SettingsError, match="32 x 32 px, the detector takes 64 x 64"):
        read_tile_files(files, 64, resize=False)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name,label\nx.png,0\n", "no column named file"),
        ("file,label\nx.png,maybe\n", "line 2"),
        ("file,label\nx.png,0\n", "x.png cannot be read"),
    ],
)
def test_bad_manifests_are_explained(tmp_path, text, word):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(text)
    with pytest.raises(SettingsError, match=word):
        read_tile_files(list_tile_files(manifest), 32)
