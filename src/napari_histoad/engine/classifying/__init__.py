"""Training and applying tile classifiers."""
