"""Measure how often normal tiles of a new group (slide, patient) are flagged, on simulated scores that are alike in a group.

    python benchmarks/calibration.py [--draws 200] [--repeats 5] [--tiles 40] [--between 0.5]

Scores are Gaussian; ``--between`` is the share of their variance that lies between groups. Each draw calibrates on G groups of
``--tiles`` tiles and flags the tiles of one more group, with every tile counted equally ("similar") or every group ("new-slide").
The mean over the draws is printed with its range over the repeats. Below the table: what is said to users with few groups.

A second table is on extrapolated rates: the finest that a fitted tail gives, in calibrations of ``--tail-tiles`` tiles of 20
groups that are alike, or differ by ``--between``.
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
TAIL_TESTED = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=40)
    parser.add_argument("--between", type=float, default=0.5)
    parser.add_argument("--tail-tiles", type=int, nargs="+", default=[500, 2000])
    options = parser.parse_args()
    print("| nominal | counted equally | groups | smallest rate | flagged, mean (range of means) | 5–95% of draws |")
    print("|---|---|---|---|---|---|")
    for rate in RATES:
        for valid_for in VALID_FOR:
            for groups in GROUPS:
                rng = np.random.default_rng(0)
                drawn = [simulate(groups, rate, valid_for, options, rng) for _ in range(options.repeats)]
                print(_row(rate, valid_for, groups, np.array([flagged for flagged, _ in drawn]), drawn[0][1].smallest_rate))
    _tails(options)
    for groups in (4, 20):
        _, calibration = simulate(groups, 0.05, "new-slide", options, np.random.default_rng(0))
        print(f"\n{groups} groups: {calibration.note}. {calibration.explain_rate(0.05)}.")


def _tails(options: argparse.Namespace) -> None:
    """Print how often extrapolated rates are refused, and how true they are where they are not."""
    between, within = options.between**0.5, (1 - options.between) ** 0.5

    def grouped(rng: np.random.Generator, tiles: int) -> np.ndarray:
        shifts = rng.normal(scale=between, size=20 if tiles < TAIL_TESTED else tiles // 40)
        return np.resize(shifts, tiles) + rng.normal(scale=within, size=tiles)

    draws = {
        "normal": lambda rng, tiles: rng.normal(size=tiles),
        f"normal, {options.between:.0%} of the variance between groups": grouped,
        "gamma, shape 2": lambda rng, tiles: rng.gamma(2, 1, tiles),
        "log-normal, sigma 0.7": lambda rng, tiles: rng.lognormal(0, 0.7, tiles),
        "Student's t, 3 degrees of freedom": lambda rng, tiles: rng.standard_t(3, tiles),
    }
    print("\n| scores | tiles | refused | flagged at the finest rate, relative to it |\n|---|---|---|---|")
    for name, draw in draws.items():
        for tiles in options.tail_tiles:
            rng, found = np.random.default_rng(0), []
            for _ in range(options.draws):
                calibration = Calibration.from_scores(draw(rng, tiles), groups=np.arange(tiles) % 20)
                if not calibration.tail_check.problem:
                    finer = calibration.with_tail()
                    flagged = (draw(rng, TAIL_TESTED) > finer.threshold(finer.smallest_rate)).mean()
                    found.append(flagged / finer.smallest_rate)
            print(f"| {name} | {tiles:,} | {1 - len(found) / options.draws:.0%} | {np.mean(found):.2f} |")


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
