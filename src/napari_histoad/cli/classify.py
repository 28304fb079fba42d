"""``histoad classify``: train, predict, explain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from napari_histoad.cli._console import CommandWithExamples, command, emit, finish_tiles, say
from napari_histoad.cli._options import (
    SLIDE,
    DeviceOption,
    JsonOption,
    MppOption,
    OverrideMppOption,
    SeedOption,
    read_settings,
    with_mpp,
)
from napari_histoad.cli._progress import follow
from napari_histoad.errors import SettingsError, first_error
from napari_histoad.system.tables import write_table

if TYPE_CHECKING:
    from napari_histoad.tiles import TileFile

app = typer.Typer(
    name="classify",
    help="Train and use a classifier of tissue classes that a pathologist has named.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
ModelArgument = Annotated[Path, Option("--model", help="Classifier file.")]


@command(
    "histoad classify train tiles --out classes.safetensors",
    "histoad classify train case.svs --regions classes.geojson --out classes.safetensors",
    locks_out=True,
)
def train(
    sources: Annotated[
        list[Path], Argument(help="Slides, folders with one folder of tile images per class, or manifest.csv files.", **SLIDE)
    ],
    out: Annotated[Path, Option(help="The classifier file to write, .safetensors.")],
    regions: Annotated[
        list[Path] | None, Option(help="Outlines named after their class, one file per slide in the same order.")
    ] = None,
    network: Annotated[
        list[str] | None,
        Option(
            help="resnet18 (default), vggnet, base_cnn, efficientnet_lite0, efficientnet_b0, mobilenetv2, separable_cnn, or the "
            "name of a timm model; several make an ensemble."
        ),
    ] = None,
    look_at: Annotated[
        list[str] | None,
        Option(
            "--input",
            help="What the network looks at: image (default), reconstruction or error; several are stacked as channels.",
        ),
    ] = None,
    model: Annotated[
        Path | None, Option(help="Detector file that computes reconstruction and error; it is saved with the classifier.")
    ] = None,
    tile_px: Annotated[
        int | None,
        Option(
            help="Width of a tile in pixels; default: that of the detector or of the tile images, else 256.", min=32, max=1024
        ),
    ] = None,
    input_px: Annotated[int | None, Option(help="Shrink tiles to this width for the network, which is faster.")] = None,
    mpp: Annotated[
        float | None, Option(help="µm per tile pixel; default: that of the detector, else 0.5.", min=0.05, max=20)
    ] = None,
    slide_mpp: MppOption = None,
    override_mpp: OverrideMppOption = None,
    pretrained: Annotated[bool, Option("--pretrained", help="Start from pretrained weights of timm.")] = False,
    weights: Annotated[Path | None, Option(help="With --pretrained and one --network: file with its weights.")] = None,
    folds: Annotated[
        int,
        Option(help="Number of folds of the cross-validation that measures how good the classifier is; 0: none.", min=0, max=20),
    ] = 5,
    max_tiles: Annotated[int, Option(help="Maximum number of tiles to train on.", min=16)] = 4000,
    settings: Annotated[Path | None, Option(help="YAML file with further settings.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a classifier on named outlines or labelled tiles, and measure it by cross-validation."""
    from napari_histoad.classifiers import save_classifier
    from napari_histoad.detectors import load_detector
    from napari_histoad.engine import (
        DetectorView,
        fit_classifier_job,
        gather_labelled_job,
        labelled_sources,
        list_labelled_files,
        own_side,
    )
    from napari_histoad.evaluation import cross_validate_job, notes_on_classes
    from napari_histoad.slide import is_slide

    detector = None if model is None else load_detector(model)
    given = read_settings(settings)
    options = {"networks": network, "inputs": look_at, "tile_px": tile_px, "input_px": input_px, "mpp": mpp}
    given |= {name: value for name, value in options.items() if value is not None}
    given["pretrained"] = pretrained or given.get("pretrained", False)
    if detector is not None:
        given = {"tile_px": detector.settings.tile_px, "mpp": detector.settings.mpp, **given}
    if "tile_px" not in given and (files := [f for p in sources if not is_slide(p) for f in list_labelled_files(p)]):
        given["tile_px"], note = own_side(files, lambda side: 32 <= side <= 1024, "the sources")
        if note:
            say(note)
    draft = _settings(given)
    known = _weights(draft.networks, weights, pretrained=draft.pretrained)
    pairs = with_mpp(labelled_sources(sources, regions or []), slide_mpp, override_mpp)
    view = None if detector is None else DetectorView.of(detector)
    colours: dict[str, Any] = {} if view is None else {"srgb": view.srgb, "stain": view.stain}
    job = gather_labelled_job(pairs, draft.tile_px, given.get("mpp"), max_tiles=max_tiles, seed=seed, **colours)
    data = follow(job, quiet=as_json)
    chosen = _settings({**given, "classes": data.classes, "mpp": data.mpp})
    report = None
    if folds:
        validation = cross_validate_job(chosen, data, folds=folds, detector=detector, weights=known, device=device, seed=seed)
        report = follow(validation, quiet=as_json)
    fitted = fit_classifier_job(chosen, data, detector=detector, weights=known, device=device, seed=seed)
    classifier = follow(fitted, quiet=as_json)
    save_classifier(classifier, out, None if report is None else report.to_json())
    counts = {name: int((data.labels == k).sum()) for k, name in enumerate(data.classes)}
    rows: list[tuple[str, object]] = [("Classes", ", ".join(f"{name} ({n:,} tiles)" for name, n in counts.items()))]
    rows += [("Networks", ", ".join(chosen.networks)), ("Inputs", ", ".join(chosen.inputs))]
    rows += [] if report is None else report.rows()
    notes = notes_on_classes(data, detector if chosen.needs_detector else None)
    rows += [("Note", note) for note in notes]
    figures = None if report is None else report.to_json()
    document = {"model": str(out), "classes": counts, "report": figures, "note": "; ".join(notes)}
    emit(document, [*rows, ("Saved", out)], as_json=as_json)


@command("histoad classify predict tiles --model classes.safetensors --out classes.csv", locks_out=True)
def predict(
    tiles: Annotated[Path, Argument(help="A folder of tile images, or a manifest.csv that lists them.")],
    model: ModelArgument,
    out: Annotated[
        Path, Option(help="The table to write: file, class, one probability per class; and problem, if tiles fail.")
    ] = Path("classes.csv"),
    resize: Annotated[bool, Option("--resize", help="Resize tiles that do not have the classifier's tile size.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Classify tile images; if they have labels, measure how well.

    Tiles that cannot be read are reported, the others are classified, and the exit code is 1.
    """
    import numpy as np

    from napari_histoad.classifiers import load_classifier
    from napari_histoad.engine import DetectorView, predict_job
    from napari_histoad.evaluation import report_classes
    from napari_histoad.tiles import list_tile_files, read_tile_files

    classifier = load_classifier(model)
    classes, side = classifier.settings.classes, classifier.settings.tile_px
    labelled = _labelled(tiles, classes)
    files = labelled or list_tile_files(tiles)
    errors: dict[int, SettingsError] = {}
    read = read_tile_files(files, side, resize=resize, errors=errors)
    if len(errors) == len(files):
        raise errors[0]
    if classifier.detector is not None:
        replace(DetectorView.of(classifier.detector), tile_px=side).normalise_files(read.images, files)
    good = [file for k, file in enumerate(files) if k not in errors]
    probabilities = follow(predict_job(classifier, read.images, device), quiet=as_json)
    found = [(f.name, classes[int(p.argmax())], *(f"{v:.6g}" for v in p)) for f, p in zip(good, probabilities, strict=True)]
    problems = [(files[k].name, *[""] * (1 + len(classes)), err.what) for k, err in errors.items()]
    columns = ("file", "class", *(f"p_{name}" for name in classes), *(["problem"] if errors else []))
    write_table(out, columns, [*found, *problems])
    truth = np.array([classes.index(file.class_name) for file in good if labelled], np.int64)
    report = report_classes(truth, probabilities, read.groups) if labelled else None
    rows: list[tuple[str, object]] = [("Classified", f"{len(good):,} tiles -> {out}")]
    document = {"classes": str(out), "tiles": len(good), "report": None if report is None else report.to_json()}
    finish_tiles(document, [*rows, *([] if report is None else report.rows())], files, errors, as_json)


@command("histoad classify explain tile.png --model classes.safetensors --out explained")
def explain(
    tiles: Annotated[list[Path], Argument(help="Tile images.")],
    model: ModelArgument,
    out: Annotated[Path, Option(help="Folder to write the pictures to.")] = Path("explained"),
    of_class: Annotated[str | None, Option("--class", help="The class to explain; default: the most probable one.")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Show which parts of a tile a classifier relies on: pictures of the tile, its error map and Grad-CAM side by side."""
    from napari_histoad.classifiers import load_classifier
    from napari_histoad.engine import explain_tile
    from napari_histoad.results import draw_explanation, explanation_panels
    from napari_histoad.tiles import TileFile, check_tile_files, read_tile_files

    classifier = load_classifier(model)
    classes = classifier.settings.classes
    if of_class is not None and of_class not in classes:
        raise SettingsError(f"the classifier has no class {of_class!r}", f"its classes are {', '.join(classes)}")
    files = [TileFile(path, path.name, None, "") for path in tiles]
    side = classifier.settings.tile_px
    images = read_tile_files(files, side).images
    for k, (height, width) in check_tile_files(files)[0].items():
        if (height, width) != (side, side):
            say(f"{files[k].name} is resized from {height} x {width} to {side} x {side} px")
    written = []
    for path, image in zip(tiles, images, strict=True):
        target = None if of_class is None else classes.index(of_class)
        found = explain_tile(classifier, image, target, device)
        picture = out / f"{path.stem}.explained.png"
        assert found.target is not None
        name, p = classes[found.target], found.probability
        panels = explanation_panels(image, found.reconstruction, found.error, found.relevance, found.method)
        draw_explanation(picture, panels, f"{path.name}: {name} {p:.2f}")
        written.append({"tile": str(path), "picture": str(picture), "class": name, "probability": p})
    rows = [(str(w["picture"]), f"{w['class']} {w['probability']:.2f}") for w in written]
    emit({"explained": written}, rows, as_json=as_json)


def _settings(given: dict[str, Any]) -> Any:
    """Return validated settings of a classifier."""
    from pydantic import ValidationError

    from napari_histoad.classifiers import ClassifierSettings

    try:
        return ClassifierSettings(**given)
    except ValidationError as err:
        msg = f"the classifier's settings are invalid ({first_error(err)})"
        raise SettingsError(msg, "see histoad classify train --help") from err


def _weights(networks: tuple[str, ...], file: Path | None, *, pretrained: bool) -> dict[str, Path] | None:
    """Return the weight files by network; None for random initial weights."""
    if file is not None and len(networks) > 1:
        raise SettingsError(
            "--weights is for one network, but several are given", "download the weights: histoad models --fetch NAME"
        )
    if not pretrained:
        return None
    return {} if file is None else {networks[0]: file}


def _labelled(tiles: Path, known: tuple[str, ...]) -> list[TileFile]:
    """Return the tiles with their classes if all of them are classes of the classifier, else none."""
    from napari_histoad.engine import list_labelled_files

    try:
        files = list_labelled_files(tiles)
    except SettingsError:
        return []
    return files if {file.class_name for file in files} <= set(known) else []


for function in (train, predict, explain):
    app.command(cls=CommandWithExamples)(function)
