"""Arguments and options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Argument, Option

from napari_histoad.cli._console import say
from napari_histoad.errors import SettingsError, SlideError

if TYPE_CHECKING:
    from napari_histoad.calibration import ValidFor
    from napari_histoad.engine import CohortSlide, TrainingSource
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.slide import Slide, StatedMpp

S = TypeVar("S", "TrainingSource", "CohortSlide")

_SHOWN = 3


def _typed_path(text: str) -> Path:
    from napari_histoad.slide import slide_path

    return slide_path(text)


SLIDE: Any = {"parser": _typed_path, "metavar": "SLIDE"}
"""For arguments and options that take slides: a URL is kept exactly as typed."""

JsonOption = Annotated[bool, Option("--json", help="Print one JSON document on stdout; messages go to stderr.")]
DeviceOption = Annotated[str, Option(help="Where to compute: auto, cpu, cuda, cuda:1 or mps.")]
CompileOption = Annotated[
    bool, Option("--compile", help="Compile the network first: takes up to a minute, then runs a little faster.")
]
MppOption = Annotated[
    str | None,
    Option(
        "--slide-mpp",
        metavar="MPP|CSV",
        help="µm per level-0 pixel for slides that do not state it; or a csv with the columns slide, mpp, whose values are "
        "used even where the slide states another one.",
    ),
]
OverrideMppOption = Annotated[
    float | None, Option("--override-mpp", help="µm per level-0 pixel for all slides, whatever they state.")
]
TissueOption = Annotated[
    str,
    Option(
        "--tissue",
        metavar="found|regions",
        help="What counts as tissue: what is found on the slide, or the outlined regions, for stains that are not found.",
    ),
]
StrideOption = Annotated[int | None, Option(help="Step between tiles in tile pixels; default: half a tile.", min=1, max=1024)]
SeedOption = Annotated[
    int, Option(help="Seed of the random numbers: the same seed and device repeat a training.", min=0, max=2**32 - 1)
]
RateOption = Annotated[
    float | None,
    Option(
        help="False-positive rate that sets the threshold; default: the rate of the saved regions, else 0.01 or the smallest "
        "rate that the calibration supports."
    ),
]
ValidForOption = Annotated[
    str | None,
    Option(
        metavar="similar|new-slide",
        help="What error rates are valid for: tissue like that of the calibration, or a new slide. Default: a new slide, if the "
        "slide is not in the calibration, which has 20 slides or more; else similar tissue; or as saved with the regions.",
    ),
]
FdrOption = Annotated[
    float | None, Option(help="False discovery rate instead of --rate: the share of flagged tiles that may be normal.")
]
ExtrapolateOption = Annotated[
    bool,
    Option(
        "--extrapolate",
        help="Allow rates down to a tenth of the smallest that the calibration tiles support, by a tail fitted to their scores; "
        "refused if it does not hold on held-out groups. --fdr uses it where nothing would be flagged otherwise.",
    ),
]
MapArgument = Annotated[Path, Argument(help="Anomaly map, <slide>.ome.zarr.", metavar="MAP")]
SlideOption = Annotated[Path | None, Option("--slide", help="The slide of the map, if it is not found beside the map.", **SLIDE)]


def read_settings(path: Path | None) -> dict[str, Any]:
    """Return the settings in a YAML file; none without a file."""
    if path is None:
        return {}
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise SettingsError(f"{path} cannot be read as YAML ({str(err).splitlines()[0]})", "check the file") from err
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path} contains no settings", "write lines such as max_steps: 1000")
    return loaded


def given_mpp(slides: Sequence[Path], slide_mpp: str | None, override: float | None) -> list[StatedMpp]:
    """Return the resolution that --slide-mpp or --override-mpp gives each slide; say which lines of a table match none."""
    from napari_histoad.slide import GivenMpp

    given = GivenMpp(slide_mpp, override)
    found = [given.of(slide) for slide in slides]
    if given.unmatched and override is None:
        named = ", ".join(given.unmatched[:_SHOWN]) + (" …" if len(given.unmatched) > _SHOWN else "")
        say(f"--slide-mpp {slide_mpp}: {len(given.unmatched)} of its lines match none of the slides: {named}")
    return found


def with_mpp(slides: Sequence[S], slide_mpp: str | None, override: float | None) -> list[S]:
    """Return slides with the resolution that is given for them; one of their own, from another table, comes first."""
    stated = given_mpp([slide.path for slide in slides], slide_mpp, override)
    return [
        replace(slide, mpp=given["mpp"] if override is not None or slide.mpp is None else slide.mpp, slide_mpp=given["slide_mpp"])
        for slide, given in zip(slides, stated, strict=True)
    ]


def chosen_validity(name: str | None) -> ValidFor | None:
    """Return what --valid-for asks for, None without it."""
    from napari_histoad.calibration import check_valid_for

    return None if name is None else check_valid_for(name)


def chosen_rate(
    opened: AnomalyMap, rate: float | None, fdr: float | None, valid_for: str | None = None, *, extrapolate: bool = False
) -> float | None:
    """Return the false-positive rate that --rate or --fdr asks for, or None for the map's own.

    --valid-for and --extrapolate are applied to the map; the power of --fdr is printed.
    """
    opened.use_rates_for(chosen_validity(valid_for))
    if fdr is None:
        if extrapolate:
            opened.use_tail()
        if rate is not None:
            opened.calibration.threshold(rate)
        return rate
    if rate is not None:
        raise SettingsError("--rate and --fdr are two ways to set the same threshold", "give one of them")
    found = opened.use_discovery_rate(fdr)
    say(f"{found.sentence}.")
    return found.rate


def open_slide_of(opened: AnomalyMap, given: Path | None) -> Slide:
    """Open the slide of a map: the given one, or the one that the map names."""
    from napari_histoad.slide import open_slide

    path = given or opened.find_slide()
    if path is None:
        raise SlideError(f"the slide {opened.info.slide} was not found", "give its path with --slide")
    return open_slide(path, opened.info.slide_mpp)
