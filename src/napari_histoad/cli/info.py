"""``histoad info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from napari_histoad.cli._console import command, emit
from napari_histoad.cli._options import SLIDE, JsonOption, MppOption, OverrideMppOption, given_mpp
from napari_histoad.errors import SettingsError


@command("histoad info case.svs", "histoad info case.svs --json")
def info(
    slide: Annotated[Path, Argument(help="The slide, a file or a URL.", **SLIDE)],
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the format, size, levels, resolution and properties of a slide."""
    from napari_histoad.slide import open_slide

    if slide.suffix == ".safetensors" and slide.exists():
        raise SettingsError(f"{slide.name} is a detector, not a slide", f"describe it with histoad models {slide}")
    with open_slide(slide, **given_mpp([slide], slide_mpp, override_mpp)[0]) as opened:
        document = {
            "path": str(opened.path),
            "format": opened.format,
            "height": opened.shape[0],
            "width": opened.shape[1],
            "mpp": opened.mpp,
            "mpp_in_file": opened.file_mpp,
            "levels": [{"height": lv.shape[0], "width": lv.shape[1], "downsample": lv.downsample} for lv in opened.levels],
            "associated": list(opened.associated),
            "icc_profile": opened.icc_profile is not None,
            "properties": opened.properties,
            "notes": list(opened.notes),
            "advice": opened.advice,
        }
        mpp = "unknown: pass --slide-mpp" if opened.mpp is None else f"{opened.mpp:g} µm per pixel"
        rows = [
            ("File", opened.path.name),
            ("Format", opened.format),
            ("Size", f"{opened.shape[1]:,} x {opened.shape[0]:,} px (width x height)"),
            ("Resolution", mpp),
            *[
                (f"Level {i}", f"{lv.shape[1]:,} x {lv.shape[0]:,}, downsample {lv.downsample:.6g}")
                for i, lv in enumerate(opened.levels)
            ],
            ("Also in the file", ", ".join(opened.associated) or "nothing else"),
            *[(name, value) for name, value in opened.properties.items() if len(value) < 100],
            *[("Note", note) for note in opened.notes],
            *([("Advice", opened.advice)] if opened.advice else []),
        ]
    emit(document, rows, as_json=as_json)
