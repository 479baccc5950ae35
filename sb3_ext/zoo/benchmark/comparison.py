"""The contenders over all environments of a suite: performance profiles and the probability of improvement (rliable).

Both are of the normalised scores (scores.py) of the last evaluations. Profiles and the IQM are over the environments on which
every contender has runs; the suite's first contender is compared with each other over the environments that the two share.
A contender counts with as many seeds as it has in the environment where it has fewest, the lowest ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sb3_ext.zoo.benchmark.bootstrap import bootstrap, with_interval
from sb3_ext.zoo.benchmark.commits import MIXED, mixed
from sb3_ext.zoo.benchmark.scores import Scoring

THRESHOLDS = np.linspace(0, 1, 101)  # of the normalised score, in a profile
SHARES = (0.5, 0.9)  # those in the table


def compare(seeds: pd.DataFrame, scoring: Scoring) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The contenders of a suite over its environments.

    Args:
        seeds: of :func:`sb3_ext.zoo.benchmark.scores.seed_statistics`.
        scoring: of the suite; its first contender that has runs is the one that the others are compared with.

    Returns:
        a row for each contender and way to act: ``environments`` and ``seeds`` of each, ``iqm`` of the normalised score,
        ``above_…`` the share of runs above it, ``improvement`` the probability that the first contender's run is better than
        its own (NaN for the first) over ``shared`` environments, each with ``…_low`` and ``…_high``; and the profiles by way
        to act and contender: ``[2 or 3 rows, thresholds]``, the share of runs above each threshold and its interval. Both
        empty with a single contender or no normalised scores.
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
    """Normalised scores by environment, the lowest seed first."""
    return {env: own.sort_values("seed").normalized.to_numpy() for env, own in rows.groupby("env", sort=False)}


def _matrix(scores: dict[str, np.ndarray], envs: list[str]) -> np.ndarray:
    """``[seeds, environments]``."""
    n_seeds = min(len(scores[env]) for env in envs)
    return np.stack([scores[env][:n_seeds] for env in envs], axis=1)


def shares_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """``[seeds, environments] → [thresholds]``: rliable's score distribution, the share of all runs above each threshold."""
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
    """The comparison for people; empty if there is none."""
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
        "Over the environments, of the normalised score: success as it is, returns min-max normalised with the suite's "
        "score_range (an environment without one is left out). IQM and the share of runs above a score are over the "
        f"environments on which every contender has runs. P({first} better): the probability that a run of {first} has a "
        "higher score than one of the contender on an environment that both have, a tie counting half (rliable's probability "
        "of improvement)."
    )
    return "\n".join([*lines, "", caption, ""])
