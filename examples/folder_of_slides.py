"""Map all slides in a folder with one detector, report those that fail, and write one report.

python examples/folder_of_slides.py slides detector.safetensors out
"""

import sys
from pathlib import Path

import napari_histoad as ha
from napari_histoad.errors import HistoadError
from napari_histoad.results import write_report


def main(folder: str, model: str, out: str) -> list[str]:
    detector = ha.load_detector(model)  # once, for all slides
    entries, failed = [], []
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in {".svs", ".tif", ".tiff", ".ndpi", ".mrxs"}:
            continue
        try:
            # An interrupted map is resumed; a finished one is returned at once.
            result = ha.map_slide(path, out, model=detector)
        except HistoadError as err:
            failed.append(f"{path.name}: {err}")
            continue
        entries.append((result, ha.open_slide(path)))
        print(f"{path.name}: {(result.p_values <= 0.01).mean():.1%} of the tiles flagged")
    write_report(entries, Path(out) / "report.html")
    return failed


if __name__ == "__main__":
    for line in main(*sys.argv[1:4]):
        print("failed:", line)
