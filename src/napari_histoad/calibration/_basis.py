"""The tiles that error rates are based on, and what the rates are valid for, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from napari_histoad.calibration._scores import smallest_rate
from napari_histoad.errors import SettingsError

SLIDES_FOR_A_NEW_ONE = 20
"""Number of slides from which rates are by default valid for a new slide: they then support a rate of 5%."""

ValidFor = Literal["similar", "new-slide"]
"""What error rates are valid for: tissue like that of the calibration, each of whose tiles counts equally; or, on average, a
new slide: then each slide of the calibration counts equally."""

Doubt = Literal["self", "refined", "mixed", "beside"]
_DOUBTS: dict[Doubt, str] = {
    "self": "the detector was trained on the mapped slide itself",
    "refined": "suspicious tiles were left out of training, and outlying scores were left out of the calibration",
    "beside": "nearly all tiles come from one place, so some held-out tiles are neighbours of training tiles",
    "mixed": "the tissue may contain lesions, and outlying scores were left out of the calibration",
}
REMEDY = "outline normal tissue on this slide to recalibrate"
"""Where the calibration has too few slides to promise a rate on another one."""

_INDEPENDENT = ("tile files", "clusters of near-duplicate tiles")
"""Groups that may all come from one slide."""
_OF_FILES = ("groups of tile files", "folders of tile files")
"""Groups that are the slides or patients of tile files."""
_PARTS = ("outlines", "blocks of tissue")
"""Groups that are parts of slides."""


@dataclass(frozen=True)
class CalibrationBasis:
    """The tiles that a calibration's error rates are based on; this is shown next to every rate.

    Attributes
    ----------
    grouping : str
        What a group of tiles is, as a plural noun: slides, outlines, blocks of one slide, tile files.
    outlined : bool
        Whether the normal tissue was outlined by a person, rather than all tissue of slides or all tile files being used.
    doubts : tuple of {"self", "refined", "mixed", "beside"}
        Reasons why the rates are approximate; empty if they are not.
    sources : int
        Number of slides, or sets of tile files.
    tiles, groups : int
        Numbers of held-out tiles and of their groups; set by `Calibration.from_scores`.
    slides : int
        Number of slides or patients of the held-out tiles, also set there; 0 if it is not known.
    names : tuple of str
        Names of the slides or sets of tile files; empty if not known.
    """

    grouping: str
    outlined: bool = False
    doubts: tuple[Doubt, ...] = ()
    sources: int = 0
    tiles: int = 0
    groups: int = 0
    slides: int = 0
    names: tuple[str, ...] = ()

    @property
    def approximate(self) -> bool:
        """Whether the rates are approximate even for tissue like that of the calibration."""
        return bool(self.doubts)

    @property
    def slide_unit(self) -> str:
        """What is independent of each other in this calibration, as a plural noun: slides, or groups of tile files."""
        return self.grouping if self.grouping in _OF_FILES else "slides"

    @property
    def sentence(self) -> str:
        """What the rates are based on and what they are valid for, as one sentence without a full stop."""
        if self.doubts or self.grouping in _INDEPENDENT:
            return self.describe("similar")
        slides = self.slides or (self.groups if self.grouping == "slides" else 0)
        some = f"{slides:,} {counted(self.slide_unit, slides)}"
        if slides >= SLIDES_FOR_A_NEW_ONE:
            new = f"and from {smallest_rate(slides):.1%} upwards, on average, for new slides like these"
            return f"{self._rests}: they are valid for {self.like}, {new}"
        few = f", for which {some} support no rate below {smallest_rate(slides):.1%}" if slides > 1 else ""
        remedy = "outline normal tissue on it to recalibrate"
        return f"{self._rests}: they are valid for {self.like}, not for a new slide{few}; {remedy}"

    @property
    def like(self) -> str:
        """The tissue that rates with equal weight for each tile are valid for."""
        return "tissue like that outlined" if self.outlined else "tissue like that of these slides or tiles"

    @property
    def _rests(self) -> str:
        of = counted(self.grouping, self.groups)
        rests = f"Rates are based on {self.tiles:,} held-out normal tiles of {self.groups:,} {of}"
        if self.sources and self.grouping in _PARTS:
            rests += " of one slide" if self.sources == 1 else f" of {self.sources:,} slides"
        return rests

    def describe(self, valid_for: ValidFor) -> str:
        """Return what the rates are based on, and that they are valid for one of the two kinds of tissue."""
        if self.doubts:
            return f"{self._rests} and are approximate: {'; '.join(_DOUBTS[doubt] for doubt in self.doubts)}"
        if valid_for == "new-slide":
            each = f"{self._rests}, and each of {self.slides:,} {counted(self.slide_unit, self.slides)} counts equally"
            if self.missing:
                return f"{each}: they are valid, on average, for a new slide like these. {self.missing}"
            least = smallest_rate(self.slides)
            return f"{each}: from {least:.1%} upwards they are valid, on average, for a new slide like these"
        if self.grouping in _INDEPENDENT:
            return f"{self._rests}: they are valid for tiles like these if the files are independent of each other"
        return f"{self._rests}: they are valid for {self.like}, not for a new slide"

    @property
    def missing(self) -> str:
        """What is missing for a useful rate on a new slide, as a sentence without a full stop; "" if nothing is."""
        if not self.slides:
            return f"The slides of the calibration tiles are not known, so no rate can be promised for a new slide; {REMEDY}"
        if self.slides >= SLIDES_FOR_A_NEW_ONE:
            return ""
        some = f"{self.slides:,} {counted(self.slide_unit, self.slides)}"
        return f"With {some} no rate below {smallest_rate(self.slides):.1%} can be promised for a new slide; {REMEDY}"


def describe_basis(basis: CalibrationBasis | None) -> str:
    """Return the sentence on what rates are based on; for None, a sentence that says it was not recorded."""
    if basis is None:
        return "rates are based on held-out normal tiles; their slides or outlines were not recorded"
    return basis.sentence


def check_valid_for(name: str) -> ValidFor:
    """Return a name of what rates are valid for.

    Raises
    ------
    SettingsError
        If it is unknown.
    """
    if name not in get_args(ValidFor):
        raise SettingsError(f"rates are not valid for {name!r}", f"known are {', '.join(get_args(ValidFor))}")
    return cast("ValidFor", name)


def counted(plural: str, count: int) -> str:
    """Return a plural noun, or its singular for a count of 1."""
    if count != 1:
        return plural
    first, _, rest = plural.partition(" of ")
    return first.removesuffix("s") + (f" of {rest}" if rest else "")
