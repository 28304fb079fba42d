"""Torch modules and nothing else: no files, no slides, no settings objects."""

from napari_histoad.networks.vqvae import VqVae, VqVaeOutput

__all__ = ["VqVae", "VqVaeOutput"]
