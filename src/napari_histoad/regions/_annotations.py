"""The outlines of an annotation file, what is to be known of them, and which of them are normal tissue."""

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

__all__ = ["Annotations", "count_classes", "normal_regions", "outside_note"]


@dataclass(frozen=True)
class Annotations:
    """What an annotation file holds.

    Attributes
    ----------
    regions : list of Region
        Outlines of tissue, in the file's order.
    notes : tuple of str
        One line for each kind of thing that was left out, and for each assumption.
    ignored : tuple of Region
        Areas classed as to be ignored (``Ignore*``).
    classed : bool
        Whether any outline states a class, also one that was left out: then those without one are not all of one kind.
    """

    regions: list[Region]
    notes: tuple[str, ...] = ()
    ignored: tuple[Region, ...] = ()
    classed: bool = False

    @classmethod
    def of(cls, regions: Sequence[Region], *, with_areas: bool = False) -> Annotations:
        """Return regions that did not come from a file as annotations; ``with_areas``: see `read_annotations`."""
        kept = [r for r in regions if r.meaning != "ignored" or (with_areas and is_area_of_interest(r.name))]
        ignored = tuple(region for region in regions if region.meaning == "ignored" and region not in kept)
        return cls(kept, (), ignored, any(region.name for region in regions))


def normal_regions(annotations: Annotations, where: str) -> tuple[list[Region], tuple[str, ...]]:
    """Return the outlines of normal tissue, and one line for what was assumed or left out.

    Those classed normal are taken, less smaller outlines of other classes in them; without any class in the whole file, all.

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
        raise RegionError(f"{where} has no region classed Normal (found: {found})", "class the normal outlines as Normal")
    return normal, (f"{where}: not learnt from are {count_classes(others)}",) if others else ()


def outside_note(regions: Sequence[Region], shape: tuple[int, int], where: str) -> str:
    """Return a line on outlines that reach beyond a slide of ``shape`` (height, width) in level-0 pixels, "" if none does.

    A pixel beyond is rounding; outlines of another slide or level lie far out.
    """
    slide = box(-1, -1, shape[0] + 1, shape[1] + 1)
    beyond = [region for region in regions if not slide.covers(region.geometry)]
    if not beyond:
        return ""
    apart = sum(not slide.intersects(region.geometry) for region in beyond)
    size = f"{shape[1]:,} × {shape[0]:,} px"
    what = f"{len(beyond)} of {len(regions)} outlines reach beyond {where} ({size}), {apart} of them lie outside altogether"
    return f"{what}: check that they belong to this slide and are in its level-0 pixels"


def _without(region: Region, others: Sequence[Region]) -> Region:
    geometry = region.geometry
    inside = [other.geometry for other in others if other.geometry.area < geometry.area and other.geometry.intersects(geometry)]
    if not inside:
        return region
    left = geometry.difference(shapely.union_all(inside))
    return replace(region, geometry=as_area(left, region.name) if left.area > 0 else Polygon())


def count_classes(regions: Sequence[Region]) -> str:
    """Return how many outlines there are of each class, in words: ``"2 Tumor, 1 without a class"``."""
    counts = Counter(region.name.strip() or "without a class" for region in regions)
    return ", ".join(f"{n} {name}" for name, n in counts.most_common())
