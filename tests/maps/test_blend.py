import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_histoad.maps._blend import blend_grid


@given(
    n=st.integers(1, 5),
    m=st.integers(1, 5),
    c=st.integers(1, 9),
    step=st.integers(1, 11),
    seed=st.integers(0, 99),
    cells=st.booleans(),
)
def test_blend_grid_equals_the_sum_over_single_tiles(n, m, c, step, seed, cells):
    rng = np.random.default_rng(seed)
    values = rng.random((n, m, c, c) if cells else (n, m), np.float32)
    values[rng.random((n, m)) < 0.3] = np.nan
    window = rng.random((c, c), np.float32) + np.float32(0.1)
    total, weight = blend_grid(values, window, step)
    by_tile = np.zeros_like(total), np.zeros_like(weight)
    for i in range(n):
        for j in range(m):
            if not np.isnan(values[i, j]).any():
                place = slice(i * step, i * step + c), slice(j * step, j * step + c)
                by_tile[0][place] += window * values[i, j]
                by_tile[1][place] += window
    assert np.allclose(total, by_tile[0], rtol=1e-5)
    assert np.allclose(weight, by_tile[1], rtol=1e-5)


@given(first=st.integers(0, 3), stop=st.integers(5, 8), step=st.integers(1, 6))
def test_blend_grid_of_a_part_equals_the_whole_to_the_bit(first, stop, step):
    values = np.random.default_rng(0).random((8, 8), np.float32)
    window = np.random.default_rng(1).random((5, 5), np.float32)
    reach = -(-5 // step)
    whole = blend_grid(values, window, step)
    part = blend_grid(values[first:stop], window, step)
    inside = slice((reach - 1) * step, (stop - first) * step)  # cells that no tile before the part reaches
    for of_whole, of_part in zip(whole, part, strict=True):
        assert np.array_equal(of_part[inside], of_whole[first * step :][inside])
