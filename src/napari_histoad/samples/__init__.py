"""A procedural H&E slide with synthetic, annotated anomalies: for the demo, the tests and File > Open Sample."""

from napari_histoad.samples._plan import ANOMALY_NAMES, SlidePlan
from napari_histoad.samples._write import sample_job, write_sample

__all__ = ["ANOMALY_NAMES", "SlidePlan", "sample_job", "write_sample"]
