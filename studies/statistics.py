"""Statistics of studies: means and paired gains with Student-t intervals, Holm's correction, and choices.

Intervals speak of seeds (initialisation and order of windows) alone: all runs share the test windows.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from s2kd.stage import UserError

CONFIDENCE = 0.95
HIGHER_IS_BETTER = ("ssim", "psnr")
Runs = dict[Hashable, float]  # seed: value


@dataclass(frozen=True)
class Interval:
    """Mean of ``n`` values with its interval, and the two-sided p of a mean of zero; NaN where n is 1."""

    mean: float
    low: float
    high: float
    p: float
    n: int


def interval(values: list[float]) -> Interval:
    """Student-t interval of the mean."""
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1)
    error = float(np.std(values, ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error > 0 else float(mean == 0)
    return Interval(mean, mean - half, mean + half, p, n)


def gain(reference: Runs, runs: Runs, metric: str = "mse") -> Interval:
    """Gain over the reference in percent of the reference, paired by seed over the seeds that both have.

    Positive is better, whichever way the metric goes.
    """
    seeds = [seed for seed in reference if seed in runs]
    if not seeds:
        raise UserError(f"{metric}: runs {list(runs)} and reference {list(reference)} have no seed in common to pair")
    sign = -1 if metric.partition("@")[0] in HIGHER_IS_BETTER else 1
    return interval([sign * 100 * (reference[seed] - runs[seed]) / abs(reference[seed]) for seed in seeds])


def holm(p: list[float]) -> list[float]:
    """Holm's step-down correction for a family of comparisons; a p that is NaN is none of it and stays."""
    adjusted, values = np.array(p, dtype=float), np.array(p, dtype=float)
    known = [place for place in np.argsort(values, kind="stable") if not np.isnan(values[place])]
    least = 0.0
    for rank, place in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * values[place]))
        adjusted[place] = least
    return adjusted.tolist()


def choose(trials: dict[Hashable, dict[Hashable, Runs]]) -> dict[Hashable, Hashable]:
    """For each group, the trial of the least mean validation loss over its seeds; the first of equals.

    Raises:
        UserError: the groups have not all had the same number of trials, or their trials not the same seeds.
    """
    numbers = {group: len(tried) for group, tried in trials.items()}
    if len(set(numbers.values())) > 1:
        listed = ", ".join(f"{group}: {number}" for group, number in numbers.items())
        raise UserError(f"unequal numbers of trials, so that the choice is unfair: {listed}")
    seeds = {frozenset(runs) for tried in trials.values() for runs in tried.values()}
    if len(seeds) > 1:
        raise UserError(f"trials with different seeds cannot be compared: {sorted(map(sorted, seeds))}")
    return {
        group: min(tried, key=lambda trial: np.mean(list(tried[trial].values()))) for group, tried in trials.items()
    }
