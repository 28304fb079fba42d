"""The choice of a focal plane."""

import pytest

from napari_histoad.slide._focus import focal_plane


@pytest.mark.parametrize(
    ("z_um", "plane"),
    [
        ((), 1),
        ((-2, 0, 2), 1),
        ((0, 1, 2), 0),
        ((-5, 1, 4), 1),
        ((3, 0.5, -4), 1),
        ((1, 2, 3), 1),
        ((-1, 1), 1),  # too few: not all are known
        ((0, 0, 0), 1),
    ],
)
def test_focal_plane_is_the_one_at_zero_or_else_the_middle(z_um, plane):
    index, (note,) = focal_plane(3, z_um)
    assert index == plane
    assert note.startswith("It holds 3 focal planes")


def test_one_focal_plane_needs_no_note():
    assert focal_plane(1) == focal_plane(1, [7.0]) == (0, ())
