"""``histoad demo``: everything from training to the report, on a drawn sample slide."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

from typer import Option

from napari_histoad.cli._console import command, emit, say
from napari_histoad.cli._options import DeviceOption, JsonOption
from napari_histoad.cli._progress import follow
from napari_histoad.errors import OutputError
from napari_histoad.system.atomic import atomic_path


@command("histoad demo --out demo-out --view")
def demo(
    out: Annotated[Path, Option(help="Folder to write everything to.")] = Path("demo-out"),
    view: Annotated[bool, Option("--view", help="Open the result in napari.")] = False,
    size: Annotated[int, Option(help="Side of the sample slide in pixels.", min=4096)] = 8192,
    steps: Annotated[int, Option(help="Number of training steps.", min=1)] = 300,
    seed: Annotated[int, Option(help="Seed of the random numbers: another seed draws another slide.", min=0, max=2**32 - 1)] = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Try everything on a drawn sample slide: train, map, evaluate, and write pictures and a report."""
    from napari_histoad.detectors import create_detector, load_detector
    from napari_histoad.engine import TrainingSource, fit_job, gather_job, map_job, train_job
    from napari_histoad.evaluation import evaluate
    from napari_histoad.results import GeoJsonExport, PngExport, write_report
    from napari_histoad.samples import SlidePlan, sample_job
    from napari_histoad.slide import open_slide

    started = time.monotonic()
    plan = SlidePlan(size, seed)
    path, model = out / "sample.tif", out / "detector.safetensors"
    follow(sample_job(path, plan), quiet=as_json)
    source = TrainingSource(path, plan.normal)
    follow(train_job([source], model, device=device, seed=seed, settings={"max_steps": steps}), quiet=as_json)
    # The baseline is trained on the same normal tiles, but uses only their colours.
    tiles, mpp = follow(gather_job([source], 256, None, seed=seed), quiet=True)
    colour = follow(fit_job(create_detector("colour", mpp=mpp), tiles, device=device, seed=seed), quiet=True)
    with open_slide(path) as slide:
        detector = load_detector(model)
        result = follow(map_job(slide, out, detector=detector, device=device, resume=False), quiet=as_json)
        baseline = follow(map_job(slide, out / "baseline-colour", detector=colour, device=device, resume=False), quiet=True)
        # The training tiles are left out: on them the detector looks better than it is.
        ours = evaluate(result, plan.planted, exclude=plan.normal)
        theirs = evaluate(baseline, plan.planted, exclude=plan.normal)
        overlay, report = out / "overlay.png", out / "report.html"
        PngExport(plan.planted).write(result, overlay, slide=slide)
        rows = [
            *ours.rows(),
            ("Colour baseline: AUROC", str(theirs.auroc)),
            ("Colour baseline: average precision", str(theirs.average_precision)),
        ]
        write_report([(result, slide)], report, truth={path.name: plan.planted}, evaluations={path.name: rows})
    GeoJsonExport().write(result, out / "anomalies.geojson")
    document = {
        "evaluation": ours.to_json(),
        "colour_baseline": theirs.to_json(),
        "seconds": round(time.monotonic() - started, 1),
        "slide": str(path),
        "map": str(result.path),
        "overlay": str(overlay),
        "report": str(report),
    }
    with atomic_path(out / "evaluation.json") as partial:
        partial.write_text(json.dumps(document, indent=2), encoding="utf-8")
    files = [("Slide", path), ("Detector", model), ("Map", result.path), ("Picture", overlay), ("Report", report)]
    emit(document, [*rows, *files, ("Took", f"{document['seconds']:.0f} s")], as_json=as_json)
    if view:
        say("opening napari …")
        try:
            subprocess.run([sys.executable, "-m", "napari", str(path), str(result.path)], check=False)
        except OSError as err:
            raise OutputError(f"napari could not be started: {err}", 'pip install "napari-histoad[all]"') from err
