"""Tables of results: interquartile means over seeds with 95 % bootstrap intervals (rliable), seeds that solve a task.

Everything is computed from ``results.csv`` and ``scoring.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from irwrappers.files import write_text
from sb3_ext.zoo.benchmark.bootstrap import bootstrap, interquartile_means, with_interval
from sb3_ext.zoo.benchmark.commits import MIXED, commit_note
from sb3_ext.zoo.benchmark.comparison import compare, comparison_markdown
from sb3_ext.zoo.benchmark.scores import GROUP, Scoring, median_step, seed_statistics

METRICS = ("success", "return")


def known_metrics(scores: pd.DataFrame) -> list[str]:
    """Return the metrics that have values; Gymnasium's MuJoCo tasks, for instance, have no success signal.

    Args:
        scores: with the columns ``success`` and ``return``.
    """
    return [metric for metric in METRICS if scores[metric].notna().any()]


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the learning curve of a contender: the IQM over seeds at every timestep at which a seed was evaluated.

    A seed's result holds until its next evaluation; the curve begins when all seeds have one.

    Args:
        rows: results of one environment, contender and kind of actions.

    Returns:
        Columns ``timesteps``, ``success``, ``return``, and ``…_low`` and ``…_high`` of both, which are NaN for a single seed.
        The success of a task without a success signal is NaN.
    """
    metrics = known_metrics(rows)
    by_seed = rows.pivot_table(index="timesteps", columns="seed", values=metrics).ffill().dropna()
    # [seeds, 1 task, evaluations, metrics]
    scores = np.stack([by_seed[metric].to_numpy().T for metric in metrics], axis=-1)[:, None]
    point, interval = bootstrap(scores.reshape(*scores.shape[:2], -1), interquartile_means)
    result = pd.DataFrame({"timesteps": by_seed.index})
    for metric in METRICS:
        result[[metric, f"{metric}_low", f"{metric}_high"]] = np.nan
    for i, metric in enumerate(metrics):
        result[metric] = point[i :: len(metrics)]
        result[f"{metric}_low"], result[f"{metric}_high"] = interval[:, i :: len(metrics)]
    return result


def all_curves(results: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """Return the :func:`curves` of each environment, contender and kind of actions, in the order of the rows.

    Args:
        results: rows of ``results.csv``.
    """
    return {key: curves(rows) for key, rows in results.groupby(GROUP, sort=False)}


def summarize(
    results: pd.DataFrame, curve: dict[tuple[str, str, str], pd.DataFrame], seeds: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return a row for each environment, contender and kind of actions.

    Args:
        results: rows of ``results.csv``.
        curve: from :func:`all_curves`.
        seeds: rows of :func:`sb3_ext.zoo.benchmark.scores.seed_statistics`; None: with a threshold of 0.9 for success only.

    Returns:
        Beside IQMs and intervals of success, return and area: ``steps`` and ``wall_s``, medians over the seeds; ``threshold``
        of the score ``metric``; ``solved``, the number of seeds that hold it at the end (NaN without a threshold);
        ``held_at``, :func:`sb3_ext.zoo.benchmark.scores.median_step` over the seeds; ``commits`` of the row's runs.
    """
    seeds = seed_statistics(results, Scoring()) if seeds is None else seeds
    of_seeds = dict(iter(seeds.groupby(GROUP, sort=False)))
    table = []
    for key, rows in results.groupby(GROUP, sort=False):
        end = rows.sort_values("timesteps").groupby("seed").last()
        own = of_seeds[key]
        last = curve[key].iloc[-1].drop("timesteps")
        (area,), interval = bootstrap(own.area.to_numpy()[:, None, None], interquartile_means)
        threshold = own.threshold.iloc[0]
        table.append(
            {
                **dict(zip(GROUP, key, strict=True)),
                "seeds": len(end),
                "steps": int(end.timesteps.median()),
                **last,
                "metric": own.metric.iloc[0],
                "threshold": threshold,
                "solved": np.nan if np.isnan(threshold) else int(own.held_at.notna().sum()),
                "held_at": median_step(own.held_at.to_numpy()),
                "area": area,
                "area_low": interval[0, 0],
                "area_high": interval[1, 0],
                "wall_s": end.wall_s.median(),
                "commits": " ".join(dict.fromkeys(commit for commits in own.commit for commit in commits)),
            }
        )
    return pd.DataFrame(table)


_CAPTION = (
    "Success, return and area: interquartile mean over seeds with 95 % stratified bootstrap interval (rliable; no interval "
    "for one seed); with fewer than four seeds, their mean. Success and return: of the last evaluation; the return is "
    "undiscounted if the threshold is a return or the suite says so, otherwise discounted with the model's gamma. Solved: "
    "number of seeds whose last evaluation reaches the threshold. Steps held: the first evaluation from which all later ones "
    "of a seed reach the threshold, lower median over seeds; never, if most seeds have none. Area: area under the learning "
    "curve of the score, divided by the steps, which is the mean score over training (trapezoidal rule; constant before the "
    "first evaluation). Steps and wall-clock seconds of training: medians."
)


def markdown(table: pd.DataFrame) -> str:
    """Return the table as Markdown.

    Args:
        table: from :func:`summarize`.
    """
    metrics = known_metrics(table)
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "environment": lambda row: row["env"],
        "contender": lambda row: row["algo"] + (f" {MIXED}" if " " in row["commits"] else ""),
        "actions": lambda row: row["actions"],
        "steps": lambda row: f"{row['steps']:,}",
        **{metric: partial(with_interval, name=metric) for metric in metrics},
        "solved": lambda row: _solved(row["solved"], row["seeds"]),
        "threshold": _threshold,
        "steps held": lambda row: _steps(row["held_at"], row["threshold"]),
        "area": partial(with_interval, name="area"),
        "wall-clock s": lambda row: f"{row['wall_s']:,.0f}",
    }
    numbers = {"steps", "steps held", "wall-clock s"}
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join('---:' if name in numbers else '---' for name in columns)}|"]
    lines += [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in table.to_dict("records")]
    return "\n".join([*lines, "", _CAPTION, ""])


def _solved(solved: float, seeds: int) -> str:
    return f"{seeds} seeds" if np.isnan(solved) else f"{solved:.0f} of {seeds}"


def _threshold(row: dict[str, Any]) -> str:
    return "none" if np.isnan(row["threshold"]) else f"{row['metric']} {row['threshold']:g}"


def _steps(held: float, threshold: float) -> str:
    if np.isnan(threshold):
        return ""
    return "never" if np.isnan(held) else f"{held:,.0f}"


def write_table(
    folder: Path, results: pd.DataFrame, curve: dict[tuple[str, str, str], pd.DataFrame], scoring: Scoring
) -> dict[str, Any]:
    """Write ``table.csv``, ``comparison.csv`` and, with both as Markdown, ``table.md``.

    Args:
        folder: where to write.
        results: rows of ``results.csv``.
        curve: from :func:`all_curves`.
        scoring: of the suite.

    Returns:
        ``comparison`` and ``profiles`` of :func:`sb3_ext.zoo.benchmark.comparison.compare`.
    """
    seeds = seed_statistics(results, scoring)
    table = summarize(results, curve, seeds)
    comparison, profiles = compare(seeds, scoring)
    write_text(folder / "table.csv", table.to_csv(index=False, float_format="%.6g"))
    parts = [markdown(table), comparison_markdown(comparison), commit_note(seeds)]
    if len(comparison):
        write_text(folder / "comparison.csv", comparison.to_csv(index=False, float_format="%.6g"))
    write_text(folder / "table.md", "\n".join(part for part in parts if part))
    return {"comparison": comparison, "profiles": profiles}
