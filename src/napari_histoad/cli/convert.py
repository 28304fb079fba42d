"""``histoad convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_histoad.cli._console import command, emit
from napari_histoad.cli._options import SLIDE, JsonOption, MppOption, OverrideMppOption, given_mpp
from napari_histoad.cli._progress import follow
from napari_histoad.errors import SettingsError


@command("histoad convert case.mrxs", "histoad convert case.czi --lossless --out case.tif")
def convert(
    slide: Annotated[Path, Argument(help="The slide or picture.", **SLIDE)],
    out: Annotated[Path | None, Option(help="The .tif file to write; default: <slide>.pyramid.tif beside the slide.")] = None,
    lossless: Annotated[bool, Option("--lossless", help="Keep every pixel value; the file is about five times larger.")] = False,
    channels: Annotated[
        str | None, Option(help="One channel or three of a grey, 16-bit or fluorescence picture, for example 2,1,0.")
    ] = None,
    white: Annotated[
        int | None, Option(help="With --channels: the intensity shown as white; default: the camera's maximum.", min=1)
    ] = None,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a slide into a pyramidal tiled TIFF, which opens quickly in most programs."""
    from napari_histoad.slide import convert_job, is_remote, open_slide

    chosen = None if channels is None else _numbers(channels)
    if white is not None and chosen is None:
        raise SettingsError("--white needs --channels", "choose one channel or three, for example --channels 0")
    with open_slide(slide, **given_mpp([slide], slide_mpp, override_mpp)[0], channels=chosen, white=white) as opened:
        name = f"{opened.name}.pyramid.tif"
        target = out or (Path(name) if is_remote(opened.path) else opened.path.with_name(name))
        if target.is_dir() or not target.name:
            raise SettingsError(f"--out {target} is a folder", f"name a file in it: --out {target / name}")
        if not is_remote(opened.path) and target.resolve() == opened.path.resolve():
            raise SettingsError(f"{target.name} is the slide itself", "name another file with --out")
        follow(convert_job(opened, target, lossless=lossless), quiet=as_json)
    emit({"slide": str(opened.path), "copy": str(target)}, [("Copy", str(target))], as_json=as_json)


def _numbers(text: str) -> list[int]:
    remedy = "give one or three, counted from 0, for example --channels 2,1,0"
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"--channels {text!r} is not a list of numbers", remedy) from None
    if min(numbers) < 0:
        raise SettingsError(f"--channels {text} contains a negative number", remedy)
    return numbers
