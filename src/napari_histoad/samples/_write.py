"""Writing the sample slide as a pyramidal JPEG TIFF, with its outlines as GeoJSON."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_histoad.jobs import run
from napari_histoad.regions import write_geojson
from napari_histoad.samples._draw import draw_block
from napari_histoad.samples._plan import SlidePlan
from napari_histoad.slide import BAND_PX, pyramid_job
from napari_histoad.system.host import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from numpy.typing import NDArray

    from napari_histoad.jobs import Job


def write_sample(path: str | PathLike[str], size_px: int = 8192, seed: int = 0, *, anomalies: bool = True) -> Path:
    """Write a sample slide and return its path; see `sample_job`."""
    return run(sample_job(path, SlidePlan(size_px, seed, anomalies)))


def sample_job(path: str | PathLike[str], plan: SlidePlan) -> Job[Path]:
    """Write the slide ``path`` (.tif), ``<stem>.truth.geojson`` and ``<stem>.normal.geojson``.

    The slide is drawn band by band: memory depends only on its width. The same plan always gives the same pixels.

    Raises
    ------
    OutputError
        If a file cannot be written; no partial file is left.
    """
    target = Path(path)
    yield from pyramid_job(target, _bands(plan), (plan.size_px,) * 2, plan.mpp, title="Drawing the sample slide")
    if plan.planted:
        write_geojson(plan.planted, target.with_name(f"{target.stem}.truth.geojson"))
    write_geojson(plan.normal, target.with_name(f"{target.stem}.normal.geojson"))
    return target


def _bands(plan: SlidePlan) -> Iterator[NDArray[np.uint8]]:
    with ThreadPoolExecutor(usable_cores()) as pool:
        for y in range(0, plan.size_px, BAND_PX):
            h = min(BAND_PX, plan.size_px - y)

            def draw(x: int, y: int = y, h: int = h) -> NDArray[np.uint8]:
                return draw_block(plan, y, x, h, min(BAND_PX, plan.size_px - x))

            yield np.concatenate(list(pool.map(draw, range(0, plan.size_px, BAND_PX))), axis=1)
