"""Train on outlined normal tissue, map the slide, list what stands out.

python examples/train_and_map.py case.svs normal.geojson out
"""

import sys
from pathlib import Path

import napari_histoad as ha
from napari_histoad.results import GeoJsonExport, PngExport, measure_regions


def main(slide: str, normal: str, out: str, **settings) -> ha.AnomalyMap:
    folder = Path(out)
    model = folder / "detector.safetensors"
    # Outlines come from QuPath or napari, as GeoJSON; those classed "Normal" are learnt from.
    ha.train(slide, model, normal=normal, **settings)
    result = ha.map_slide(slide, folder, model=model)
    # A threshold is a false-positive rate: the share of normal tiles that may be flagged.
    for region in measure_regions(result, rate=0.01):
        print(f"{region.measurements['Area mm²']:.3f} mm², mean score {region.measurements['Mean score']:.4g}")
    GeoJsonExport().write(result, folder / "anomalies.geojson", rate=0.01)
    with ha.open_slide(slide) as pixels:
        PngExport().write(result, folder / "overlay.png", slide=pixels)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:4])
