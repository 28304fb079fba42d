"""``histoad export``: one flag per class in `napari_histoad.results.exports`."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_histoad.cli._console import CommandWithExamples, command, emit
from napari_histoad.cli._options import (
    ExtrapolateOption,
    FdrOption,
    JsonOption,
    MapArgument,
    RateOption,
    SlideOption,
    ValidForOption,
    chosen_rate,
    open_slide_of,
)
from napari_histoad.errors import SettingsError


class ExportCommand(CommandWithExamples):
    """A command with one flag per export, looked up only when it runs or shows its help: loading the exports takes a moment."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters of the function and a flag per export."""
        if "flags" not in ctx.meta:
            ctx.meta["flags"] = _flags()
        return [*ctx.meta["flags"], *super().get_params(ctx)]

    def invoke(self, ctx: Any) -> Any:
        """Run with the chosen exports in ``ctx.obj``."""
        from napari_histoad.results import exports

        ctx.obj = [export for export in exports() if ctx.params.pop(_parameter(export.name))]
        return super().invoke(ctx)


def _flags() -> list[Any]:
    from napari_histoad.results import exports

    def takes_flags() -> None: ...

    takes_flags.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                _parameter(export.name),
                inspect.Parameter.KEYWORD_ONLY,
                default=False,
                annotation=Annotated[bool, typer.Option(f"--{export.name}", help=f"{export.title}.", rich_help_panel="Files")],
            )
            for export in exports()
        ]
    )
    app = typer.Typer(add_completion=False)
    app.command()(takes_flags)
    return list(typer.main.get_command(app).params)


def _parameter(name: str) -> str:
    return f"export_{name.replace('-', '_')}"


@command(
    "histoad export maps/case.ome.zarr --geojson --csv", "histoad export maps/case.ome.zarr --png --slide case.svs --out figures"
)
def export(
    context: typer.Context,
    result: MapArgument,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: the folder of the map.")] = None,
    slide: SlideOption = None,
    rate: RateOption = None,
    fdr: FdrOption = None,
    valid_for: ValidForOption = None,
    extrapolate: ExtrapolateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a map as files for other programs, such as QuPath, ImageJ and spreadsheets. Several at once are possible."""
    from napari_histoad.maps import AnomalyMap
    from napari_histoad.results import exports, write_exports

    if not context.obj:
        raise SettingsError("nothing to export", f"add one or more of {', '.join(f'--{known.name}' for known in exports())}")
    opened = AnomalyMap.open(result)
    rate = chosen_rate(opened, rate, fdr, valid_for, extrapolate=extrapolate)
    needs_slide = any(chosen.needs_slide for chosen in context.obj)
    with open_slide_of(opened, slide) if needs_slide else nullcontext() as pixels:
        written = [str(path) for path in write_exports(opened, context.obj, out or result.parent, slide=pixels, rate=rate)]
    used = opened.default_rate if rate is None else rate
    words = f"{opened.calibration.explain_rate(used)}. {opened.calibration_note}"
    document = {"written": written, "false_positive_rate": used, "valid_for": opened.calibration.valid_for, "threshold": words}
    emit(document, [*(("Written", path) for path in written), ("Threshold", words)], as_json=as_json)
