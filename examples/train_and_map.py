"""Train a detector on outlined normal tissue, map the slide, and list its flagged regions.

python examples/train_and_map.py case.svs normal.geojson out
"""

import sys
from pathlib import Path

import napari_histoad as ha
from napari_histoad.results import GeoJsonExport, PngExport, measure_regions


def main(slide: str, normal: str, out: str, **settings) -> ha.AnomalyMap:
    folder = Path(out)
    model = folder / "detector.safetensors"
    # GeoJSON outlines from QuPath or napari; those of the class "Normal" are used for training.
    ha.train(slide, model, normal=normal, **settings)
    result = ha.map_slide(slide, folder, model=model)
    # The threshold is set by a false-positive rate: the share of normal tiles that are flagged.
    for region in measure_regions(result, rate=0.01):
        print(f"{region.measurements['Area mm²']:.3f} mm², mean score {region.measurements['Mean score']:.4g}")
    GeoJsonExport().write(result, folder / "anomalies.geojson", rate=0.01)
    with ha.open_slide(slide) as pixels:
        PngExport().write(result, folder / "overlay.png", slide=pixels)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:4])
