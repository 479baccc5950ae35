"""Comparison of contenders over all environments: performance profiles and the probability of improvement (rliable).

Both use the normalised scores (scores.py) of the last evaluations. Profiles and the IQM are over the environments in which
every contender has runs; the suite's first contender is compared with each other one over the environments that both have.
Of each contender as many seeds are used, the lowest ones, as it has in the environment where it has fewest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sb3_ext.zoo.benchmark.bootstrap import bootstrap, with_interval
from sb3_ext.zoo.benchmark.commits import MIXED, mixed
from sb3_ext.zoo.benchmark.scores import Scoring

THRESHOLDS = np.linspace(0, 1, 101)  # of the normalised score, in a profile
SHARES = (0.5, 0.9)  # thresholds whose shares of runs are in the table


def compare(seeds: pd.DataFrame, scoring: Scoring) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Compare the contenders of a suite over its environments.

    Args:
        seeds: rows of :func:`sb3_ext.zoo.benchmark.scores.seed_statistics`.
        scoring: of the suite; the others are compared with its first contender that has runs.

    Returns:
        A table and profiles, both empty with a single contender or without normalised scores. The table has a row for each
        contender and kind of actions: numbers of ``environments`` and ``seeds``, ``iqm`` of the normalised score,
        ``above_…``, the share of runs above that score, and ``improvement``, the probability that a run of the first
        contender is better than one of this contender over ``shared`` environments (NaN for the first), each with ``…_low``
        and ``…_high``. The profiles, by kind of actions and contender, are ``[3, thresholds]``: the share of runs above each
        threshold, and the ends of its interval.
    """
    known = seeds.dropna(subset="normalized")
    labels = scoring.ordered(known).algo.unique() if len(known) else []
    table, profiles = [], {}
    for actions, rows in known.groupby("actions", sort=False):
        scores = {label: _by_environment(rows[rows.algo == label]) for label in labels if label in set(rows.algo)}
        if len(scores) < 2:
            continue
        common = [env for env in rows.env.unique() if all(env in own for own in scores.values())]
        first = next(iter(scores))
        profiles[str(actions)] = {label: _profile(_matrix(own, common)) for label, own in scores.items() if common}
        for label, own in scores.items():
            named = {"actions": actions, "algo": label, "mixed": mixed(rows[rows.algo == label])}
            table.append({**named, **_overall(own, common), **_improvement(scores[first], own, label == first, first)})
    return pd.DataFrame(table), profiles


def _by_environment(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return normalised scores by environment, in the order of the seeds."""
    return {env: own.sort_values("seed").normalized.to_numpy() for env, own in rows.groupby("env", sort=False)}


def _matrix(scores: dict[str, np.ndarray], envs: list[str]) -> np.ndarray:
    """Return scores ``[seeds, environments]``."""
    n_seeds = min(len(scores[env]) for env in envs)
    return np.stack([scores[env][:n_seeds] for env in envs], axis=1)


def shares_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the share of all runs above each threshold, rliable's score distribution.

    Args:
        scores: ``[seeds, environments]``.
        thresholds: ``[thresholds]``.

    Returns:
        ``[thresholds]``.
    """
    return (scores[..., None] > thresholds).mean((0, 1))


def _profile(scores: np.ndarray) -> np.ndarray:
    point, interval = bootstrap(scores, lambda resampled: shares_above(resampled, THRESHOLDS))
    return np.vstack([point, interval])


def _overall(scores: dict[str, np.ndarray], envs: list[str]) -> dict[str, Any]:
    from rliable.metrics import aggregate_iqm

    names = ("iqm", *(f"above_{share}" for share in SHARES))
    if not envs:
        return {"environments": 0, "seeds": 0, **{f"{name}{end}": np.nan for name in names for end in ("", "_low", "_high")}}
    matrix = _matrix(scores, envs)
    point, interval = bootstrap(
        matrix, lambda resampled: np.array([aggregate_iqm(resampled), *shares_above(resampled, np.array(SHARES))])
    )
    result: dict[str, Any] = {"environments": len(envs), "seeds": len(matrix)}
    for i, name in enumerate(names):
        result.update({name: point[i], f"{name}_low": interval[0, i], f"{name}_high": interval[1, i]})
    return result


def _improvement(first: dict[str, np.ndarray], other: dict[str, np.ndarray], itself: bool, label: str) -> dict[str, Any]:
    from rliable.metrics import probability_of_improvement

    shared = [env for env in first if env in other]
    result = {
        "over": label,
        "shared": len(shared),
        "improvement": np.nan,
        "improvement_low": np.nan,
        "improvement_high": np.nan,
    }
    if shared and not itself:
        (point,), interval = bootstrap(
            [_matrix(first, shared), _matrix(other, shared)], lambda x, y: np.array([probability_of_improvement(x, y)])
        )
        result.update(improvement=point, improvement_low=interval[0, 0], improvement_high=interval[1, 0])
    return result


def comparison_markdown(comparison: pd.DataFrame) -> str:
    """Return the comparison as Markdown; an empty string if there is none.

    Args:
        comparison: table of :func:`compare`.
    """
    if not len(comparison):
        return ""
    first = comparison.over.iloc[0]
    header = [
        "contender",
        "actions",
        "environments",
        "seeds",
        "IQM",
        *(f"runs above {share}" for share in SHARES),
        f"P({first} better)",
    ]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in comparison.to_dict("records"):
        names = ("iqm", *(f"above_{share}" for share in SHARES), "improvement")
        cells = [
            row["algo"] + (f" {MIXED}" if row["mixed"] else ""),
            row["actions"],
            str(row["environments"]),
            str(row["seeds"]),
        ]
        lines.append(f"| {' | '.join([*cells, *(with_interval(row, name) for name in names)])} |")
    caption = (
        "Over the environments, normalised scores: success rates as they are, returns min-max normalised with the suite's "
        "score_range (environments without one are left out). IQM and the share of runs above a score are over the "
        f"environments in which every contender has runs. P({first} better): the probability that a run of {first} has a "
        "higher score than one of the contender in an environment that both have, a tie counting half (rliable's probability "
        "of improvement)."
    )
    return "\n".join([*lines, "", caption, ""])
