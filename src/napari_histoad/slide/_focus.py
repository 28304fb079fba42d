"""The choice of a focal plane, by the same rule for all formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def focal_plane(count: int, z_um: Sequence[float] = ()) -> tuple[int, tuple[str, ...]]:
    """Return the index of the focal plane to read, and a note if there are several.

    The plane nearest to z = 0 µm if the positions include it: z is then measured from the focus; otherwise the middle one.
    """
    if count < 2:
        return 0, ()
    if len(z_um) == count and min(z_um) <= 0 <= max(z_um) and min(z_um) < max(z_um):
        plane = min(range(count), key=lambda k: abs(z_um[k]))
        extent = f"z = {min(z_um):g} to {max(z_um):g} µm"
        return plane, (f"It holds {count} focal planes, {extent}: the one at z = {z_um[plane]:g} µm is read.",)
    return count // 2, (f"It holds {count} focal planes: number {count // 2 + 1}, the middle one, is read.",)
