"""Regions numbered band by band equal those of the whole picture."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from map_makers import fill, make_map
from scipy import ndimage

from napari_histoad.maps import AnomalyMap, save_labels
from napari_histoad.maps._labels import label_bands


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 30)),
    st.integers(1, 12),
    st.floats(0.02, 0.7),
    st.integers(0, 9),
    st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_label_bands_numbers_regions_as_labelling_the_whole_does(shape, rows, share, min_cells, seed):
    picture = np.random.default_rng(seed).random(shape) < share
    whole, found = ndimage.label(picture, np.ones((3, 3)))
    sizes = np.bincount(whole.ravel(), minlength=found + 1)
    kept = [n for n in range(1, found + 1) if sizes[n] >= max(1, min_cells)]
    expected = np.zeros(shape, np.uint32)
    for new, old in enumerate(kept, start=1):
        expected[whole == old] = new
    bands = [picture[y : y + rows] for y in range(0, shape[0], rows)]
    assert np.array_equal(np.concatenate(list(label_bands(bands, min_cells))), expected)


def test_save_labels_writes_the_flagged_regions_at_every_level(tmp_path):
    result = make_map(tmp_path / "a.ome.zarr", shape=(9001, 2300), cell_um=4.0)
    fill(result, range(0, result.block_count, 3))
    save_labels(result, 0.6)
    labels = result.flag(0.6)
    assert labels.max() > 5
    assert np.array_equal(labels, result.flag(0.6, field=result.score_field()))
    group = AnomalyMap.open(result.path)._group["labels/anomalous"]
    for level, shape in enumerate(result.geometry.level_shapes()):
        stored = np.asarray(group[str(level)])
        assert stored.shape == shape
        assert np.array_equal(stored, labels[:: 2**level, :: 2**level])
