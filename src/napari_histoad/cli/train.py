"""``histoad train`` and ``recalibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from napari_histoad.cli._console import command, emit, say
from napari_histoad.cli._options import (
    SLIDE,
    DeviceOption,
    JsonOption,
    MppOption,
    OverrideMppOption,
    SeedOption,
    TissueOption,
    read_settings,
    with_mpp,
)
from napari_histoad.cli._progress import follow
from napari_histoad.errors import SettingsError
from napari_histoad.system.atomic import lock_output

if TYPE_CHECKING:
    from napari_histoad.calibration import Calibration

SlidesArgument = Annotated[
    list[Path], Argument(help="Slides, folders of tile images, or manifest.csv files that list tile images.", **SLIDE)
]
NormalOption = Annotated[
    list[str] | None,
    Option(
        help="Outlines of normal tissue, one file per slide in the same order; or all-tissue (the default), if all tissue of "
        "these slides is normal; or mixed-tissue, if they may contain lesions: rare tissue is left out and rates are approximate."
    ),
]
NormalClassOption = Annotated[
    list[str] | None, Option(help="For tile images with classes: the normal classes, if their names do not say so; or all-tiles.")
]
MaxTilesOption = Annotated[int, Option(help="Maximum number of tiles to train on, over all slides.", min=48)]


@command(
    "histoad train case.svs --normal case.normal.geojson --out normal.safetensors",
    "histoad train *.svs --detector embedding --out normal.safetensors",
)
def train(
    slides: SlidesArgument,
    out: Annotated[Path, Option(help="The detector file to write, .safetensors.")],
    normal: NormalOption = None,
    tissue: TissueOption = "found",
    detector: Annotated[
        str, Option(help="best, fast (trains in seconds), or the name of a detector; histoad models lists them.")
    ] = "best",
    mpp: Annotated[
        float | None, Option(help="µm per tile pixel; default: 0.5, or the resolution of a coarser slide.", min=0.05, max=20)
    ] = None,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    normal_class: NormalClassOption = None,
    tile_px: Annotated[
        int | None, Option(help="Width of a tile in pixels; default: 256, or the width of the tile images.", min=32, max=1024)
    ] = None,
    srgb: Annotated[
        bool, Option("--srgb", help="Convert colours to sRGB by the slides' ICC profiles, now and when mapping.")
    ] = False,
    stain: Annotated[str | None, Option(help="Normalise the stain, now and when mapping: macenko, vahadane or reinhard.")] = None,
    settings: Annotated[Path | None, Option(help="YAML file with settings of the detector.")] = None,
    seed: SeedOption = 0,
    max_tiles: MaxTilesOption = 2000,
    backbone: Annotated[
        str | None,
        Option(
            help="Encoder for the detectors embedding and deep_isolation_forest: efficientnet-lite0 (the default), own, starter, "
            "the name of a timm model, hf-hub:owner/name, or a folder with a model of the hub; histoad models lists some."
        ),
    ] = None,
    backbone_weights: Annotated[Path | None, Option(help="File with the encoder's weights, or its downloaded folder.")] = None,
    refine: Annotated[str | None, Option(help="Leave out training tiles that look unlike the others: neighbours or svm.")] = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, Option(help="Number of GPUs of this machine to train on.", min=1)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a detector on normal tissue. An interrupted training is resumed by the same command."""
    from napari_histoad.engine import suspicious_file, train_job, training_sources

    given = read_settings(settings)
    if tile_px is not None:
        given["tile_px"] = tile_px
    if srgb:
        given["srgb"] = True
    options = {"stain": stain, "backbone": backbone, "backbone_weights": backbone_weights}
    given |= {name: value for name, value in options.items() if value is not None}
    found = training_sources(slides, normal, None, tissue, normal_class=normal_class)
    sources = with_mpp(found, slide_mpp, override_mpp)
    job = train_job(
        sources,
        out,
        detector=detector,
        mpp=mpp,
        device=device,
        devices=devices,
        seed=seed,
        max_tiles=max_tiles,
        refine=refine,
        settings=given,
    )
    trained = follow(job, quiet=as_json)
    assert trained.calibration is not None
    document = {
        "model": str(out),
        "detector": trained.name,
        "settings": trained.settings.model_dump(),
        "trained_on": list(trained.trained_on),
        "held_out_tiles": len(trained.calibration.scores),
        **_rates(trained.calibration),
        "left_out_tiles": len(trained.left_out),
    }
    rows = [
        ("Detector", f"{trained.name}, {trained.settings.tile_px} px tiles at {trained.settings.mpp:g} µm/px"),
        *calibration_rows(trained.calibration),
        ("Saved", out),
    ]
    if refine is not None:
        rows.insert(1, ("Left out", f"{len(trained.left_out):,} suspicious tiles, listed in {suspicious_file(out)}"))
    emit(document, rows, as_json=as_json)


@command(
    "histoad recalibrate normal.safetensors theirs.svs --out theirs.safetensors",
    "histoad recalibrate maps/case.ome.zarr --normal normal.geojson",
)
def recalibrate(
    model: Annotated[Path, Argument(help="Detector file, or a finished map.", metavar="MODEL|MAP")],
    slides: Annotated[
        list[Path] | None, Argument(help="Slides, folders of tile images, or manifest.csv files; not for a map.", **SLIDE)
    ] = None,
    out: Annotated[Path | None, Option(help="The detector file to write, .safetensors; not for a map.")] = None,
    normal: NormalOption = None,
    tissue: TissueOption = "found",
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    normal_class: NormalClassOption = None,
    max_tiles: MaxTilesOption = 2000,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Set the thresholds of a detector on normal tissue of another site; the network is not trained again.

    Or those of a finished map, by normal tissue that is outlined on its slide (--normal): no tile is scored again, and regions
    are outlined anew.
    """
    from napari_histoad.engine import recalibrate_job, training_sources

    if model.is_dir():
        if slides or out is not None or len(normal or ()) != 1:
            remedy = "give the map and --normal with the outlines on its slide"
            raise SettingsError(f"{model.name} is a map, which is recalibrated in place by one file of outlines", remedy)
        _recalibrate_map(model, Path((normal or [""])[0]), as_json=as_json)
        return
    if not slides or out is None:
        raise SettingsError("a detector is recalibrated on slides, and saved", "give slides, and --out with the file to write")
    found = training_sources(slides, normal, None, tissue, normal_class=normal_class)
    sources = with_mpp(found, slide_mpp, override_mpp)
    detector = follow(recalibrate_job(sources, model, out, device=device, max_tiles=max_tiles), quiet=as_json)
    assert detector.calibration is not None
    calibrated = detector.calibration
    document = {"model": str(out), "normal_tiles": len(calibrated.scores), **_rates(calibrated)}
    emit(document, [*calibration_rows(calibrated), ("Saved", str(out))], as_json=as_json)


def _recalibrate_map(path: Path, outlines: Path, *, as_json: bool) -> None:
    from napari_histoad.maps import AnomalyMap, recalibrate_map
    from napari_histoad.regions import normal_regions, read_annotations
    from napari_histoad.results import describe_saved

    opened, annotations = AnomalyMap.open(path), read_annotations(outlines)
    regions, notes = normal_regions(annotations, outlines.name)
    for note in (*annotations.notes, *notes):
        say(note)
    with lock_output(path):
        recalibrate_map(opened, regions)
    document = {"map": str(path), "normal_tiles": len(opened.calibration.scores), **_rates(opened.calibration)}
    found, note = describe_saved(opened), opened.region_note
    rows = [*calibration_rows(opened.calibration), *([("Regions", note)] if note else []), ("Found", found)]
    emit({**document, "calibration": opened.calibration_note, "findings": found}, rows, as_json=as_json)


def _rates(calibration: Calibration) -> dict[str, Any]:
    interval = calibration.rate_interval(calibration.default_rate)
    return {
        "calibration": calibration.note,
        "false_positive_rate": calibration.default_rate,
        "left_out_rates": None if interval is None else interval._asdict(),
        "smallest_rate": calibration.smallest_rate,
        "smallest_rate_for_a_new_slide": None
        if calibration.slides is None
        else calibration.made_valid_for("new-slide").smallest_rate,
    }


def calibration_rows(calibration: Calibration) -> list[tuple[str, str]]:
    """Return rows (name, value) that say what the error rates are based on."""
    interval = calibration.rate_interval(calibration.default_rate)
    rates = [] if interval is None else [("Error rates", interval.sentence)]
    return [("Calibration", calibration.note), *rates]
