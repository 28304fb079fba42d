"""Measure how often normal tiles of a new group (slide, patient) are flagged, on simulated scores that are alike in a group.

    python benchmarks/calibration.py [--draws 1000] [--tiles 40] [--between 0.5]

Scores are Gaussian; ``--between`` is the share of their variance that lies between groups. Each draw calibrates on G groups of
``--tiles`` tiles and flags the tiles of one more group, with every tile counted equally ("similar") or every group ("new-slide").
"""

from __future__ import annotations

import argparse

import numpy as np

from napari_histoad.calibration import Calibration

GROUPS = (2, 4, 8, 15, 20, 50)
RATES = (0.01, 0.05)
VALID_FOR = ("similar", "new-slide")
TESTED = 400
"""Tiles of the new group: enough that its rate is known well."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--tiles", type=int, default=40)
    parser.add_argument("--between", type=float, default=0.5)
    options = parser.parse_args()
    print("| nominal | counted equally | groups | smallest rate | flagged, mean | 5–95% of draws |\n|---|---|---|---|---|---|")
    for rate in RATES:
        for valid_for in VALID_FOR:
            for groups in GROUPS:
                flagged, least = simulate(groups, rate, valid_for, options)
                low, high = np.quantile(flagged, (0.05, 0.95))
                counted = "tiles" if valid_for == "similar" else "groups"
                print(f"| {rate:.0%} | {counted} | {groups} | {least:.1%} | {flagged.mean():.1%} | {low:.1%}–{high:.1%} |")


def simulate(groups: int, rate: float, valid_for: str, options: argparse.Namespace) -> tuple[np.ndarray, float]:
    """Return the share of the new group's tiles that is flagged in each draw, and the smallest rate that is supported."""
    rng, flagged, least = np.random.default_rng(0), [], 0.0
    of = np.repeat(np.arange(groups), options.tiles)
    for _ in range(options.draws):
        shift = rng.normal(scale=options.between**0.5, size=groups + 1)
        normal = rng.normal(shift[of], (1 - options.between) ** 0.5)
        new = rng.normal(shift[-1], (1 - options.between) ** 0.5, TESTED)
        calibration = Calibration.from_scores(normal, groups=of, slides=of).made_valid_for(valid_for)
        least = calibration.smallest_rate
        flagged.append((new > calibration.threshold(rate)).mean())
    return np.array(flagged), least


if __name__ == "__main__":
    main()
