"""Interquartile means over seeds with 95 % bootstrap intervals (rliable), from ``results.csv`` alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

GROUP = ["env", "algo", "actions"]
METRICS = ("success", "return")
SOLVED = 0.9
REPETITIONS = 2000  # of the bootstrap


def interquartile_means(scores: np.ndarray) -> np.ndarray:
    """``[seeds, 1, …] → […]``: rliable's ``aggregate_iqm`` of one task, at all evaluations at once.

    The mean of the middle half of the seeds; of fewer than four it is the plain mean.
    """
    # scipy's trim_mean, which rliable calls, spends most of a millisecond on checking what it is given, and the bootstrap
    # calls it thousands of times.
    cut = len(scores) // 4
    kept = np.partition(scores, [cut, len(scores) - 1 - cut], axis=0)[cut : len(scores) - cut]
    return np.asarray(kept.mean(0))[0]


def known_metrics(scores: pd.DataFrame) -> list[str]:
    """Those of which there are any: Gymnasium's MuJoCo tasks know no success."""
    return [metric for metric in METRICS if scores[metric].notna().any()]


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of one environment, contender and way to act, the IQM at every timestep at which a seed was evaluated.

    A seed's result holds until its next evaluation; the curve begins when all have one. Columns ``timesteps``, and for each
    of success and return its name, ``…_low`` and ``…_high``: of a single seed these are NaN, as is the success of a task that
    knows none.
    """
    from rliable.library import get_interval_estimates

    metrics = known_metrics(rows)
    by_seed = rows.pivot_table(index="timesteps", columns="seed", values=metrics).ffill().dropna()
    # [seeds, 1 task, evaluations, metrics]
    scores = np.stack([by_seed[metric].to_numpy().T for metric in metrics], axis=-1)[:, None]
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from NumPy's global generator, whatever random_state says
    if len(scores) > 1:
        points, intervals = get_interval_estimates(
            {"": scores.reshape(*scores.shape[:2], -1)}, interquartile_means, reps=REPETITIONS
        )
        point, interval = points[""], intervals[""]
    else:
        point = interquartile_means(scores).ravel()
        interval = np.full((2, point.size), np.nan)
    np.random.set_state(state)
    result = pd.DataFrame({"timesteps": by_seed.index})
    for metric in METRICS:
        result[[metric, f"{metric}_low", f"{metric}_high"]] = np.nan
    for i, metric in enumerate(metrics):
        result[metric] = point[i :: len(metrics)]
        result[f"{metric}_low"], result[f"{metric}_high"] = interval[:, i :: len(metrics)]
    return result


def all_curves(results: pd.DataFrame) -> dict[tuple[str, str, str], pd.DataFrame]:
    """:func:`curves` of each environment, contender and way to act, in the order of the file."""
    return {key: curves(rows) for key, rows in results.groupby(GROUP, sort=False)}


def summarize(results: pd.DataFrame, curve: dict[tuple[str, str, str], pd.DataFrame]) -> pd.DataFrame:
    """A row for each environment, contender and way to act: what :func:`curves` ends with, and how it got there.

    ``steps`` and ``wall_s`` are medians over the seeds; ``solved_at`` is the timestep at which the IQM of success first
    reached 0.9 (NaN: never).
    """
    table = []
    for key, rows in results.groupby(GROUP, sort=False):
        end = rows.sort_values("timesteps").groupby("seed").last()
        last = curve[key].iloc[-1].drop("timesteps")
        solved = curve[key].query("success >= @SOLVED").timesteps
        named = dict(zip(GROUP, key, strict=True))
        named.update(seeds=len(end), steps=int(end.timesteps.median()), **last, wall_s=end.wall_s.median())
        table.append({**named, "solved_at": solved.iloc[0] if len(solved) else np.nan})
    return pd.DataFrame(table)


def markdown(table: pd.DataFrame) -> str:
    """The summary for people."""
    metrics = known_metrics(table)
    header = ["environment", "contender", "actions", "seeds", "steps", *metrics, "wall-clock s"]
    align = ["---", "---", "---", "---:", "---:", *["---"] * len(metrics), "---:"]
    if "success" in metrics:
        header, align = [*header, f"steps to {SOLVED} success"], [*align, "---:"]
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(align)}|"]
    for row in table.to_dict("records"):
        cells = [row["env"], row["algo"], row["actions"], row["seeds"], f"{row['steps']:,}"]
        for metric in metrics:
            low, high = row[f"{metric}_low"], row[f"{metric}_high"]
            score = "" if np.isnan(row[metric]) else f"{row[metric]:.3f}"
            cells.append(score + ("" if np.isnan(low) else f" [{low:.3f}, {high:.3f}]"))
        cells.append(f"{row['wall_s']:,.0f}")
        if "success" in metrics:
            cells.append("never" if np.isnan(row["solved_at"]) else f"{row['solved_at']:,.0f}")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    caption = (
        "Interquartile mean over seeds of the last evaluation, with its 95 % stratified bootstrap interval (rliable; none for "
        "one seed); the mean of fewer than four seeds. Steps and wall-clock of training are medians."
    )
    return "\n".join([*lines, "", caption, ""])


def write_table(folder: Path, results: pd.DataFrame, curve: dict[tuple[str, str, str], pd.DataFrame]) -> None:
    """``table.csv`` and ``table.md``."""
    table = summarize(results, curve)
    table.to_csv(folder / "table.csv", index=False, float_format="%.6g")
    (folder / "table.md").write_text(markdown(table), encoding="utf-8")
