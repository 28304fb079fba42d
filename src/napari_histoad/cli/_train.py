"""``histoad train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_histoad.cli._console import DeviceOption, JsonOption, MppOption, command, emit, follow
from napari_histoad.errors import SettingsError

__all__ = ["train"]


@command
def train(
    slides: Annotated[list[Path], typer.Argument(help="Slides, or folders of tiles, or manifest.csv files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The detector file to write, .safetensors.", show_default=False)],
    normal: Annotated[
        list[str] | None,
        typer.Option(help="Outlines of normal tissue, one file per slide in the same order, or all-tissue."),
    ] = None,
    detector: Annotated[str, typer.Option(help="Method; histoad models lists them.")] = "vqvae",
    mpp: Annotated[float | None, typer.Option(help="µm per tile pixel; default 0.5, or the slide's own if coarser.")] = None,
    slide_mpp: MppOption = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of a tile in pixels.")] = None,
    srgb: Annotated[
        bool, typer.Option("--srgb", help="Convert colours by the slides' ICC profiles, here and in later maps.")
    ] = False,
    settings: Annotated[Path | None, typer.Option(help="YAML file with settings of the method.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same device: same detector.")] = 0,
    max_tiles: Annotated[int, typer.Option(help="Most tiles to learn from, over all slides.", min=48)] = 2000,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Learn what normal tissue looks like. An interrupted run goes on where it was."""
    from napari_histoad.engine import train_job, training_sources
    from napari_histoad.slide import GivenMpp

    given = _read_settings(settings)
    if tile_px is not None:
        given["tile_px"] = tile_px
    if srgb:
        given["srgb"] = True
    given_mpp = GivenMpp(slide_mpp)
    sources = [replace(source, mpp=given_mpp.of(source.path)) for source in training_sources(slides, normal, None)]
    job = train_job(sources, out, detector=detector, mpp=mpp, device=device, seed=seed, max_tiles=max_tiles, settings=given)
    trained = follow(job, quiet=as_json)
    assert trained.calibration is not None
    held_out = len(trained.calibration.scores)
    document = {
        "model": str(out),
        "detector": trained.name,
        "settings": trained.settings.model_dump(),
        "trained_on": list(trained.trained_on),
        "held_out_tiles": held_out,
    }
    rows = [
        ("Detector", f"{trained.name}, {trained.settings.tile_px} px tiles at {trained.settings.mpp:g} µm/px"),
        (
            "Calibrated on",
            f"{held_out:,} held-out normal tiles: false-positive rates down to {trained.calibration.smallest_rate:.2%}",
        ),
        ("Saved", out),
    ]
    emit(document, rows, as_json=as_json)


def _read_settings(path: Path | None) -> dict[str, Any]:
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
