"""What to train on: slides with their outlines, and sets of tile files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histoad.errors import RegionError
from napari_histoad.regions import Annotations, Region, normal_regions, read_annotations
from napari_histoad.slide import is_slide, is_url, locate, open_slide
from napari_histoad.tiles import check_tissue_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histoad.slide import Slide

DEFAULT_MPP = 0.5
_TISSUE = ("all-tissue", "mixed-tissue")
"""Given instead of outlines: all tissue is normal, or it may hold lesions."""


@dataclass(frozen=True)
class TrainingSource:
    """One slide, or one set of tile files, to learn normal tissue from."""

    path: Path  # a slide, a folder of tiles, or a manifest.csv, of which only tiles with label 0 are used
    regions: Sequence[Region] | None = None  # normal tissue; None takes all tissue
    mpp: float | None = None  # µm per level-0 pixel; replaces what the slide states
    mixed: bool = False  # may hold lesions: rare tissue is left out; otherwise all tissue is normal, however rare
    slide_mpp: float | None = None  # µm per level-0 pixel, used if the slide states none
    normal_classes: tuple[str, ...] = ()  # of tile files, instead of the known names; see `list_normal_files`
    notes: tuple[str, ...] = ()  # what was assumed or left out when the source was chosen; shown when it is read
    tissue_from: str = "found"  # found, or regions: the outlines are the tissue, for stains where detection fails

    def __post_init__(self) -> None:
        if is_url(self.path):
            object.__setattr__(self, "path", locate(self.path))  # without signatures and passwords, as it is shown in messages

    def open(self, *, srgb: bool = False) -> Slide:
        """Open the slide."""
        return open_slide(self.path, self.mpp, slide_mpp=self.slide_mpp, srgb=srgb)

    @cached_property
    def is_tiles(self) -> bool:
        """Whether this is a set of tile files and not a slide."""
        return not is_slide(self.path)


def common_mpp(sources: Sequence[TrainingSource], mpp: float | None, preferred: float = DEFAULT_MPP) -> float:
    """Return the given mpp, or else the preferred one, or that of the coarsest slide if it is coarser."""
    if mpp is not None:
        return mpp
    wanted = preferred
    for source in sources:
        if not source.is_tiles:
            with source.open() as slide:
                wanted = max(wanted, slide.require_mpp())
    return wanted


def training_sources(
    paths: Sequence[Path],
    normal: Any,
    slide_mpp: float | None = None,
    tissue_from: str = "found",
    override_mpp: float | None = None,
    normal_class: str | Sequence[str] | None = None,
) -> list[TrainingSource]:
    """Pair slides with their outlines; the parameters are those of `train`.

    Raises `SettingsError` if outlines are to be taken as tissue and a slide has none; `RegionError` if the numbers of annotation
    files and slides differ, a file is given twice, or a slide has no normal outline.
    """
    classes = () if normal_class is None else (normal_class,) if isinstance(normal_class, str) else tuple(normal_class)
    given = ["all-tissue"] if normal is None else [normal] if isinstance(normal, str | PathLike) else list(normal)
    if len(given) == 1 and given[0] in _TISSUE:
        given *= len(paths)
    if given and all(isinstance(part, Region) for part in given):
        given = [given]  # the outlines of one slide
    if len(given) != len(paths):
        what = "annotation files" if all(isinstance(part, str | PathLike) for part in given) else "sets of outlines"
        msg = f"{len(paths)} slides but {len(given)} {what} were given"
        remedy = "give one annotation file per slide, in the same order; or all-tissue, or mixed-tissue if it may hold lesions"
        raise RegionError(msg, remedy)
    files = [str(Path(part).resolve()) for part in given if isinstance(part, str | PathLike) and part not in _TISSUE]
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise RegionError(
            f"{Path(twice).name} is given for several slides", "outlines belong to one slide: give each its own file"
        )
    for part in given:
        check_tissue_from(tissue_from, given=part not in _TISSUE)
    return [
        replace(_source(path, part), tissue_from=tissue_from, mpp=override_mpp, slide_mpp=slide_mpp, normal_classes=classes)
        for path, part in zip(paths, given, strict=True)
    ]


def _source(path: Path, given: Any) -> TrainingSource:
    """Return a slide with its outlines: a file, regions, ``all-tissue`` or ``mixed-tissue``."""
    if isinstance(given, str) and given in _TISSUE:
        return TrainingSource(path, None, mixed=given == "mixed-tissue")
    if isinstance(given, str | PathLike):
        found, where = read_annotations(given), Path(given).name
    else:
        found, where = Annotations.of(given), f"the outlines of {path.name}"
    chosen, assumed = normal_regions(found, where)
    return TrainingSource(path, chosen, notes=(*found.notes, *assumed))
