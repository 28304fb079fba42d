"""The outlines of an annotation file, notes on them, and the choice of normal tissue among them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import shapely
from shapely.geometry import Polygon, box

from napari_histoad.errors import RegionError
from napari_histoad.regions._classes import is_area_of_interest
from napari_histoad.regions._region import as_area

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histoad.regions._region import Region


@dataclass(frozen=True)
class Annotations:
    """The content of an annotation file.

    Attributes
    ----------
    regions : list of Region
        Outlines of tissue, in the file's order.
    notes : tuple of str
        Sentences about what was left out and what was assumed.
    ignored : tuple of Region
        Areas of the class ``Ignore*``.
    classed : bool
        Whether any outline in the file, used or left out, has a class: if so, those without a class are not assumed normal.
    """

    regions: list[Region]
    notes: tuple[str, ...] = ()
    ignored: tuple[Region, ...] = ()
    classed: bool = False

    @classmethod
    def of(cls, regions: Sequence[Region], *, with_areas: bool = False) -> Annotations:
        """Return annotations made of regions that are not from a file; for ``with_areas`` see `read_annotations`."""
        kept = [r for r in regions if r.meaning != "ignored" or (with_areas and is_area_of_interest(r.name))]
        ignored = tuple(region for region in regions if region.meaning == "ignored" and region not in kept)
        return cls(kept, (), ignored, any(region.name for region in regions))


def normal_regions(annotations: Annotations, where: str) -> tuple[list[Region], tuple[str, ...]]:
    """Return the outlines of normal tissue, and notes on what was assumed or left out.

    These are the outlines with a class that means normal, minus smaller outlines of other classes inside them; if no outline in
    the file has a class, all of them.

    Raises
    ------
    RegionError
        If no outline is normal tissue.
    """
    regions = annotations.regions
    if not annotations.classed and not any(region.name for region in regions):
        noun = "the outline has no class and is" if len(regions) == 1 else f"the {len(regions)} outlines have no class and are"
        return list(regions), (f"{where}: {noun} taken as normal tissue",)
    others = [*(region for region in regions if not region.is_normal), *annotations.ignored]
    normal = [_without(region, others) for region in regions if region.is_normal]
    normal = [region for region in normal if region.geometry.area > 0]
    if not normal:
        found = count_classes(others) or "none"
        msg = f"{where} has no outline of the class Normal (found: {found})"
        raise RegionError(msg, "give the outlines of normal tissue the class Normal")
    return normal, (f"{where}: not used for training: {count_classes(others)}",) if others else ()


def outside_note(regions: Sequence[Region], shape: tuple[int, int], where: str) -> str:
    """Return a note on outlines that extend beyond a slide of ``shape`` (height, width) in level-0 pixels; "" if none does.

    One pixel beyond is tolerated as rounding; outlines of another slide or level are far outside.
    """
    slide = box(-1, -1, shape[0] + 1, shape[1] + 1)
    beyond = [region for region in regions if not slide.covers(region.geometry)]
    if not beyond:
        return ""
    apart = sum(not slide.intersects(region.geometry) for region in beyond)
    size = f"{shape[1]:,} × {shape[0]:,} px"
    what = f"{len(beyond)} of {len(regions)} outlines extend beyond {where} ({size}), {apart} of them are completely outside"
    return f"{what}: check that they belong to this slide and are in its level-0 pixels"


def _without(region: Region, others: Sequence[Region]) -> Region:
    geometry = region.geometry
    inside = [other.geometry for other in others if other.geometry.area < geometry.area and other.geometry.intersects(geometry)]
    if not inside:
        return region
    left = geometry.difference(shapely.union_all(inside))
    return replace(region, geometry=as_area(left, region.name) if left.area > 0 else Polygon())


def count_classes(regions: Sequence[Region]) -> str:
    """Return the number of outlines of each class as text: ``"2 Tumor, 1 without a class"``."""
    counts = Counter(region.name.strip() or "without a class" for region in regions)
    return ", ".join(f"{n} {name}" for name, n in counts.most_common())
