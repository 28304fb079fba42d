"""Torch modules only: no files, slides or settings objects."""

from napari_histoad.networks.vqvae import VqVae, VqVaeOutput

__all__ = ["VqVae", "VqVaeOutput"]
