"""``histoad train`` and ``recalibrate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_histoad.cli._console import (
    SLIDE,
    DeviceOption,
    JsonOption,
    MppOption,
    OverrideMppOption,
    TissueOption,
    command,
    emit,
    follow,
)
from napari_histoad.errors import SettingsError

__all__ = ["read_settings", "recalibrate", "train"]

SlidesArgument = Annotated[
    list[Path], typer.Argument(help="Slides, or folders of tiles, or manifest.csv files.", **SLIDE, show_default=False)
]
NormalOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Outlines of normal tissue, one file per slide in the same order; or all-tissue: all tissue of these slides is "
        "normal (the default); or mixed-tissue: they may hold lesions, so what is rare is left out and rates are approximate."
    ),
]
NormalClassOption = Annotated[
    list[str] | None,
    typer.Option(help="Of tiles in class folders or with a class: which is normal, where its name does not say; or all-tiles."),
]
MaxTilesOption = Annotated[int, typer.Option(help="Most tiles to learn from, over all slides.", min=48)]


@command
def train(
    slides: SlidesArgument,
    out: Annotated[Path, typer.Option(help="The detector file to write, .safetensors.", show_default=False)],
    normal: NormalOption = None,
    tissue: TissueOption = "found",
    detector: Annotated[str, typer.Option(help="Method; histoad models lists them.")] = "vqvae",
    mpp: Annotated[float | None, typer.Option(help="µm per tile pixel; default 0.5 or the slide's.", min=0.05, max=20)] = None,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    normal_class: NormalClassOption = None,
    tile_px: Annotated[
        int | None, typer.Option(help="Side of a tile in pixels; default 256, of tile files their own.", min=32, max=1024)
    ] = None,
    srgb: Annotated[
        bool, typer.Option("--srgb", help="Convert colours by the slides' ICC profiles, here and in later maps.")
    ] = False,
    stain: Annotated[
        str | None, typer.Option(help="Give all slides the same stains, here and in later maps: macenko, vahadane or reinhard.")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML file with settings of the method.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same device: same detector.", min=0, max=2**32 - 1)] = 0,
    max_tiles: MaxTilesOption = 2000,
    backbone: Annotated[
        str | None, typer.Option(help="Encoder of embedding and deep_isolation_forest: own, starter, or a name of timm's.")
    ] = None,
    backbone_weights: Annotated[Path | None, typer.Option(help="File of the encoder's weights.")] = None,
    refine: Annotated[str | None, typer.Option(help="Leave out normal tiles that do not look normal: neighbours or svm.")] = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, typer.Option(help="GPUs of this machine that learn together.", min=1)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Learn what normal tissue looks like. An interrupted run goes on where it was."""
    from napari_histoad.engine import suspicious_file, train_job, training_sources
    from napari_histoad.slide import GivenMpp

    given = read_settings(settings)
    if tile_px is not None:
        given["tile_px"] = tile_px
    if srgb:
        given["srgb"] = True
    options = {"stain": stain, "backbone": backbone, "backbone_weights": backbone_weights}
    given |= {name: value for name, value in options.items() if value is not None}
    given_mpp = GivenMpp(slide_mpp, override_mpp)
    found = training_sources(slides, normal, None, tissue, normal_class=normal_class)
    sources = [replace(source, **given_mpp.of(source.path)) for source in found]
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
    held_out = len(trained.calibration.scores)
    document = {
        "model": str(out),
        "detector": trained.name,
        "settings": trained.settings.model_dump(),
        "trained_on": list(trained.trained_on),
        "held_out_tiles": held_out,
        "calibration": trained.calibration.note,
        "left_out_tiles": len(trained.left_out),
    }
    rows = [
        ("Detector", f"{trained.name}, {trained.settings.tile_px} px tiles at {trained.settings.mpp:g} µm/px"),
        ("Calibration", trained.calibration.note),
        ("Saved", out),
    ]
    if refine is not None:
        rows.insert(1, ("Left out", f"{len(trained.left_out):,} suspicious tiles, listed in {suspicious_file(out)}"))
    emit(document, rows, as_json=as_json)


@command
def recalibrate(
    model: Annotated[Path, typer.Argument(help="Trained detector.", show_default=False)],
    slides: SlidesArgument,
    out: Annotated[Path, typer.Option(help="The detector file to write, .safetensors.", show_default=False)],
    normal: NormalOption = None,
    tissue: TissueOption = "found",
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    normal_class: NormalClassOption = None,
    max_tiles: MaxTilesOption = 2000,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Set a detector's thresholds by another site's normal tissue; nothing is trained."""
    from napari_histoad.engine import recalibrate_job, training_sources
    from napari_histoad.slide import GivenMpp

    given_mpp = GivenMpp(slide_mpp, override_mpp)
    found = training_sources(slides, normal, None, tissue, normal_class=normal_class)
    sources = [replace(source, **given_mpp.of(source.path)) for source in found]
    detector = follow(recalibrate_job(sources, model, out, device=device, max_tiles=max_tiles), quiet=as_json)
    assert detector.calibration is not None
    note = detector.calibration.note
    document = {"model": str(out), "normal_tiles": len(detector.calibration.scores), "calibration": note}
    emit(document, [("Calibration", note), ("Saved", str(out))], as_json=as_json)


def read_settings(path: Path | None) -> dict[str, Any]:
    """Return the settings of a YAML file, or none.

    Raises
    ------
    SettingsError
        If it cannot be read.
    """
    if path is None:
        return {}
    import yaml

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise SettingsError(f"{path} cannot be read as YAML ({str(err).splitlines()[0]})", "check the file") from err
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path} holds no settings", "write lines such as max_steps: 1000")
    return loaded
