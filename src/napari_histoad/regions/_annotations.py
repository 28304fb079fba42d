"""The outlines of an annotation file, what is to be known of them, and which of them are normal tissue."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_histoad.errors import RegionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histoad.regions._region import Region

__all__ = ["Annotations", "count_classes", "normal_regions"]


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
    def of(cls, regions: Sequence[Region]) -> Annotations:
        """Return regions that did not come from a file as annotations."""
        kept = [region for region in regions if region.meaning != "ignored"]
        ignored = tuple(region for region in regions if region.meaning == "ignored")
        return cls(kept, (), ignored, any(region.name for region in regions))


def normal_regions(annotations: Annotations, where: str) -> tuple[list[Region], tuple[str, ...]]:
    """Return the outlines of normal tissue, and one line for what was assumed or left out.

    Those classed normal are taken; without any class in the whole file, all.

    Raises
    ------
    RegionError
        If no outline is normal tissue.
    """
    regions = annotations.regions
    if not annotations.classed and not any(region.name for region in regions):
        noun = "the outline has no class and is" if len(regions) == 1 else f"the {len(regions)} outlines have no class and are"
        return list(regions), (f"{where}: {noun} taken as normal tissue",)
    normal = [region for region in regions if region.is_normal]
    others = [region for region in regions if not region.is_normal]
    if not normal:
        found = count_classes([*others, *annotations.ignored]) or "none"
        raise RegionError(f"{where} has no region classed Normal (found: {found})", "class the normal outlines as Normal")
    return normal, (f"{where}: not learnt from are {count_classes(others)}",) if others else ()


def count_classes(regions: Sequence[Region]) -> str:
    """Return how many outlines there are of each class, in words: ``"2 Tumor, 1 without a class"``."""
    counts = Counter(region.name.strip() or "without a class" for region in regions)
    return ", ".join(f"{n} {name}" for name, n in counts.most_common())
