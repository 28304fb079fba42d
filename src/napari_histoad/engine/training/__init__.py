"""Training detectors: tiles gathered, networks fitted, scores calibrated."""
