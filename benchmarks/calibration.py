"""Measure how often normal tiles of a new group (slide, patient) are flagged, on simulated scores that are alike in a group.

    python benchmarks/calibration.py [--draws 200] [--repeats 5] [--tiles 40] [--between 0.5]

Scores are Gaussian; ``--between`` is the share of their variance that lies between groups. Each draw calibrates on G groups of
``--tiles`` tiles and flags the tiles of one more group, with every tile counted equally ("similar") or every group ("new-slide").
The mean over the draws is printed with its range over the repeats. Below the table: what is said to users with few groups.
"""

from __future__ import annotations

import argparse

import numpy as np

from napari_histoad.calibration import Calibration, CalibrationBasis

GROUPS = (2, 4, 8, 15, 20, 50)
RATES = (0.01, 0.05)
VALID_FOR = ("similar", "new-slide")
TESTED = 400
"""Tiles of the new group: enough that its rate is known well."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=40)
    parser.add_argument("--between", type=float, default=0.5)
    options = parser.parse_args()
    print("| nominal | counted equally | groups | smallest rate | flagged, mean (range of means) | 5–95% of draws |")
    print("|---|---|---|---|---|---|")
    for rate in RATES:
        for valid_for in VALID_FOR:
            for groups in GROUPS:
                rng = np.random.default_rng(0)
                drawn = [simulate(groups, rate, valid_for, options, rng) for _ in range(options.repeats)]
                print(_row(rate, valid_for, groups, np.array([flagged for flagged, _ in drawn]), drawn[0][1].smallest_rate))
    for groups in (4, 20):
        _, calibration = simulate(groups, 0.05, "new-slide", options, np.random.default_rng(0))
        print(f"\n{groups} groups: {calibration.note}. {calibration.explain_rate(0.05)}.")


def _row(rate: float, valid_for: str, groups: int, flagged: np.ndarray, least: float) -> str:
    low, high = np.quantile(flagged, (0.05, 0.95))
    means, counted = flagged.mean(axis=1), "tiles" if valid_for == "similar" else "groups"
    mean = f"{means.mean():.1%} ({means.min():.1%}–{means.max():.1%})" if least <= rate else "nothing is flagged"
    return f"| {rate:.0%} | {counted} | {groups} | {least:.1%} | {mean} | {low:.1%}–{high:.1%} |"


def simulate(
    groups: int, rate: float, valid_for: str, options: argparse.Namespace, rng: np.random.Generator
) -> tuple[np.ndarray, Calibration]:
    """Return the share of the new group's tiles that is flagged in each draw, and the calibration of the last draw."""
    flagged, of = [], np.repeat(np.arange(groups), options.tiles)
    basis = CalibrationBasis("slides", sources=groups)
    for _ in range(options.draws):
        shift = rng.normal(scale=options.between**0.5, size=groups + 1)
        normal = rng.normal(shift[of], (1 - options.between) ** 0.5)
        new = rng.normal(shift[-1], (1 - options.between) ** 0.5, TESTED)
        calibration = Calibration.from_scores(normal, groups=of, slides=of, basis=basis).made_valid_for(valid_for)
        flagged.append((new > calibration.threshold(rate)).mean())
    return np.array(flagged), calibration


if __name__ == "__main__":
    main()
