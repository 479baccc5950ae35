"""The score of an environment, and statistics of a seed's evaluations: whether, when and how fast it solved the task.

* Score: the success rate; the return, if the suite gives a ``threshold`` or the task has no success signal.
* Threshold: 0.9 for a success rate, or the suite's ``threshold``. Without either, a task cannot be solved.
* Normalised score: a success rate as it is; a return min-max normalised, ``(return - low) / (high - low)`` with the suite's
  ``score_range: [low, high]``, not clipped. A return without a range has no normalised score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from irwrappers.files import write_text

GROUP = ["env", "algo", "actions"]
SOLVED = 0.9
SCORING = "scoring.json"


@dataclass(frozen=True)
class Scoring:
    """What a suite says about the scores of its environments.

    Args:
        contenders: labels in the suite's order; the first is compared with the others.
        environments: mappings by name, which may have ``threshold`` and ``score_range``.
    """

    contenders: Sequence[str] = ()
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Scoring:
        """Return the scoring of a benchmark; without ``scoring.json`` only success has a threshold and a normalised score.

        Args:
            folder: folder of the benchmark.

        Raises:
            ValueError: if ``scoring.json`` is damaged.
        """
        path = folder / SCORING
        if not path.is_file():
            return cls()
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            contenders, environments = known["contenders"], known["environments"]
            if not isinstance(contenders, list) or not all(isinstance(each, dict) for each in environments.values()):
                raise TypeError
            return cls([str(name) for name in contenders], environments)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is not what a benchmark writes. Delete it, or give --suite.") from None

    def write(self, folder: Path) -> None:
        """Write ``scoring.json``, so that ``python -m sb3_ext.plot`` does not need the suite.

        Args:
            folder: folder of the benchmark.
        """
        folder.mkdir(parents=True, exist_ok=True)
        known = {"contenders": list(self.contenders), "environments": self.environments}
        write_text(folder / SCORING, json.dumps(known, indent=2) + "\n")

    def ordered(self, results: pd.DataFrame) -> pd.DataFrame:
        """Return results in the suite's order of environments and contenders, those that the suite does not have last.

        Args:
            results: with the columns ``env`` and ``algo``.
        """
        ranks = {
            column: results[column].map({name: rank for rank, name in enumerate(names)}).fillna(len(names))
            for column, names in (("env", list(self.environments)), ("algo", self.contenders))
        }
        order = pd.DataFrame(ranks).sort_values(["env", "algo"], kind="stable").index
        return results.loc[order].reset_index(drop=True)

    def metric(self, rows: pd.DataFrame) -> str:
        """Return the column that is the score of an environment: ``"success"`` or ``"return"``.

        Args:
            rows: results of one environment.
        """
        has_threshold = "threshold" in self.environments.get(rows.env.iloc[0], {})
        return "return" if has_threshold or rows.success.isna().all() else "success"

    def threshold(self, env: str, metric: str) -> float | None:
        """Return the score at which an environment is solved, or None.

        Args:
            env: name of the environment.
            metric: ``"success"`` or ``"return"``.
        """
        given = self.environments.get(env, {}).get("threshold")
        return given if given is not None else SOLVED if metric == "success" else None

    def normalized(self, env: str, metric: str, scores: np.ndarray) -> np.ndarray:
        """Return normalised scores, NaN where the environment has none.

        Args:
            env: name of the environment.
            metric: ``"success"`` or ``"return"``.
            scores: of any shape.
        """
        if metric == "success":
            return scores
        low, high = self.environments.get(env, {}).get("score_range", (np.nan, np.nan))
        return (scores - low) / (high - low)


def held_at(timesteps: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    """Return the timestep of the first evaluation from which all scores are at least the threshold; NaN if there is none.

    Args:
        timesteps: ``[evaluations]`` of one seed, in the order of time.
        scores: ``[evaluations]`` of the same seed.
        threshold: of the score.
    """
    below = np.flatnonzero(~(scores >= threshold))
    first = below[-1] + 1 if len(below) else 0
    return float(timesteps[first]) if first < len(timesteps) else np.nan


def area_under_curve(timesteps: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean score over training: the area under the learning curve, divided by the steps of the last evaluation.

    The curve is linear between evaluations (trapezoidal rule), and constant before the first evaluation.

    Args:
        timesteps: ``[evaluations]`` of one seed, in the order of time.
        scores: ``[evaluations]`` of the same seed.
    """
    steps, values = np.concatenate([[0], timesteps]), np.concatenate([scores[:1], scores])
    return float(np.sum(np.diff(steps) * (values[1:] + values[:-1]) / 2) / steps[-1])


def seed_statistics(results: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Return a row for each environment, contender, kind of actions and seed, in the order of the results.

    Args:
        results: rows of ``results.csv``.
        scoring: of the suite.

    Returns:
        Columns ``env``, ``algo``, ``actions``, ``seed``, ``metric`` (that of the score), ``threshold`` (NaN: none), ``score``
        of the last evaluation, ``normalized``, ``held_at`` (NaN: not held at the end, or no threshold), ``area``, and
        ``commit``, a tuple of the commits of the seed's evaluations.
    """
    table = []
    metrics = {env: scoring.metric(rows) for env, rows in results.groupby("env", sort=False)}
    for key, rows in results.groupby([*GROUP, "seed"], sort=False):
        rows = rows.sort_values("timesteps", kind="stable")
        env, metric = key[0], metrics[key[0]]
        steps, scores = rows.timesteps.to_numpy(), rows[metric].to_numpy(dtype=float)
        threshold = scoring.threshold(env, metric)
        table.append(
            {
                **dict(zip([*GROUP, "seed"], key, strict=True)),
                "metric": metric,
                "threshold": np.nan if threshold is None else threshold,
                "score": scores[-1],
                "normalized": float(scoring.normalized(env, metric, scores[-1])),
                "held_at": np.nan if threshold is None else held_at(steps, scores, threshold),
                "area": area_under_curve(steps, scores),
                "commit": tuple(rows.commit.unique()) if "commit" in rows else (),
            }
        )
    return pd.DataFrame(table)


def median_step(steps: np.ndarray) -> float:
    """Return the lower median over seeds: the step by which half of the seeds hold the threshold, NaN if most never do.

    Args:
        steps: ``[seeds]``, from :func:`held_at`; NaN stands for never.
    """
    return float(np.sort(steps)[(len(steps) - 1) // 2])  # NumPy sorts NaN to the end
