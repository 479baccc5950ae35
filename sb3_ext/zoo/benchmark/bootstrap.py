"""rliable's bootstrap, made repeatable, and its interquartile mean, fast enough for whole learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

REPETITIONS = 2000  # number of resamples


def bootstrap(scores: np.ndarray | Sequence[np.ndarray], function: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return rliable's point estimate and 95 % stratified bootstrap interval, the same for the same scores.

    Args:
        scores: ``[seeds, tasks, …]``, or several such arrays, resampled independently.
        function: maps resampled ``scores``, each array an argument, to an array ``[values]``.

    Returns:
        Estimates ``[values]`` and intervals ``[2, values]``, lower and upper ends, which are NaN for a single seed.
    """
    from rliable.library import get_interval_estimates

    several = not isinstance(scores, np.ndarray)
    arrays: Sequence[np.ndarray] = list(scores) if several else [scores]  # type: ignore[list-item]
    if max(len(array) for array in arrays) == 1:
        point = np.atleast_1d(function(*arrays))
        return point, np.full((2, point.size), np.nan)
    state = np.random.get_state()
    np.random.seed(0)  # rliable samples from NumPy's global generator, whatever random_state says
    try:
        points, intervals = get_interval_estimates({"": arrays if several else arrays[0]}, function, reps=REPETITIONS)
    finally:
        np.random.set_state(state)
    return points[""], intervals[""]


def interquartile_means(scores: np.ndarray) -> np.ndarray:
    """Return rliable's ``aggregate_iqm`` over seeds for one task, at all evaluations at once.

    It is the mean of the middle half of the seeds; with fewer than four seeds, the mean of all.

    Args:
        scores: ``[seeds, 1, …]``.

    Returns:
        ``[…]``.
    """
    # scipy's trim_mean, which rliable calls, spends most of a millisecond on argument checks, and the bootstrap calls it
    # thousands of times.
    cut = len(scores) // 4
    kept = np.partition(scores, [cut, len(scores) - 1 - cut], axis=0)[cut : len(scores) - cut]
    return np.asarray(kept.mean(0))[0]


def with_interval(row: dict[str, Any], name: str) -> str:
    """Return a value with its interval as ``0.500 [0.100, 0.900]``; for a single seed ``0.500``, for NaN an empty string.

    Args:
        row: with ``name``, ``name_low`` and ``name_high``.
        name: of the value.
    """
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return "" if np.isnan(value) else f"{value:.3f}" + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]")
