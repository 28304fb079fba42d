import pytest
from striped_tiles import labelled


@pytest.fixture
def tiles():
    return labelled(48)


@pytest.fixture(scope="session")
def detector():
    """A small VQ-VAE, briefly trained on tiles of the first class."""
    from napari_histoad.detectors import create_detector
    from napari_histoad.engine import fit_job
    from napari_histoad.jobs import run

    data = labelled(160, seed=1)
    normal = data.tiles.subset(data.labels == 0)
    return run(fit_job(create_detector("vqvae", tile_px=64, max_steps=40, batch=8), normal, device="cpu"))
