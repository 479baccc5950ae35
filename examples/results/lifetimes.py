"""Which payment makes an agent learn an unseen task within a lifetime: what the task pays, or what was learned to be paid.

    python examples/results/lifetimes.py lifetime/PointGoal-v1 point_goal                # a model that comes with the package
    python examples/results/lifetimes.py lifetime/ML1-reach-v3 MODEL.safetensors … --out FOLDER  # of save_reward_model

Writes ``success.csv`` (share of successful episodes in each batch of a lifetime), ``table.md`` (the last batch, mean and 95 %
bootstrap interval over seeds), ``success.png`` and, of the first model, ``traces.png``: what each step is paid, over the
distance to the goal (of tasks of Meta-World over the dense reward).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import bootstrap
from tqdm import tqdm

from sb3_ext.meta import RewardModel
from sb3_ext.meta.evaluation import Trace, make_evaluation_env, run_lifetimes
from sb3_ext.zoo.lifetimes import make_family

COLORS = {"shaped": "#7a7a7a", "sparse": "#c9a227"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", help="lifetime/…, an id of sb3_ext.zoo.lifetimes")
    parser.add_argument("models", nargs="+", help="files, or names of models that come with the package")
    parser.add_argument("--seeds", type=int, default=10, help="from 100 on")
    parser.add_argument("--lifetimes", type=int, default=64, help="side by side, for each seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes, for environments that have no vectorised form")
    parser.add_argument("--out", type=Path, default=Path("logs", "lifetimes"))
    given = parser.parse_args()
    models = {Path(name).stem: RewardModel.load(name) for name in given.models}
    first = next(iter(models.values()))
    payers: dict[str, Any] = {**models, "sparse": "sparse", "shaped": "shaped"}
    success: dict[str, np.ndarray] = {}
    traces: dict[str, Trace] = {}
    seeds = range(100, 100 + given.seeds)
    with tqdm(total=len(payers) * len(seeds), desc="lifetimes", unit="seed") as bar:
        for name, payer in payers.items():
            env = make_evaluation_env(
                make_family(given.family, "test"), payer, given.lifetimes, first.inner, first.env, given.jobs
            )
            rows = []
            for seed in seeds:
                traces[name] = run_lifetimes(env, payer, seed)
                rows.append(traces[name].success.mean(1))
                bar.update()
            success[name] = np.stack(rows)
            env.close()
    given.out.mkdir(parents=True, exist_ok=True)
    write(given.out, seeds, success)
    draw_success(given.out / "success.png", success)
    draw_traces(given.out / "traces.png", traces[next(iter(models))], first)
    print((given.out / "table.md").read_text())


def write(out: Path, seeds: range, success: dict[str, np.ndarray]) -> None:
    with open(out / "success.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["paid by", "seed", *(f"batch {i + 1}" for i in range(next(iter(success.values())).shape[1]))])
        for name, rows in success.items():
            table.writerows([name, seed, *row.round(4)] for seed, row in zip(seeds, rows, strict=True))
    lines = ["| paid by | success in the last batch | 95 % interval |", "|---|---:|---|"]
    for name, rows in success.items():
        low, high = interval(rows[:, -1])
        lines.append(f"| {name} | {rows[:, -1].mean():.3f} | {low:.3f} to {high:.3f} |")
    (out / "table.md").write_text("\n".join(lines) + "\n")


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean ``[n]``."""
    result = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def draw_success(path: Path, success: dict[str, np.ndarray]) -> None:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    panel = figure.subplots()
    for name, rows in success.items():
        batches = np.arange(1, rows.shape[1] + 1)
        low, high = np.transpose([interval(column) for column in rows.T])
        (line,) = panel.plot(batches, rows.mean(0), label=name, color=COLORS.get(name), marker="o", markersize=3)
        panel.fill_between(batches, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    panel.set(xlabel="batch of a lifetime", ylabel="share of episodes that succeed, unseen goals", ylim=(0, 1))
    panel.grid(alpha=0.25)
    panel.legend()
    figure.savefig(path, dpi=150)


def draw_traces(path: Path, trace: Trace, model: RewardModel) -> None:
    """Payments of the first and the last batch, over the distance to the goal or the dense reward."""
    if hasattr(trace.tasks[0], "goal_angle"):
        goals = np.array([[np.cos(task.goal_angle), np.sin(task.goal_angle)] for task in trace.tasks])
        x, label = np.linalg.norm(trace.observations - goals, axis=-1), "distance to the goal"
    else:
        x, label = trace.shaped, "dense reward"
    shade = np.abs(trace.shaped).max()
    n = model.inner.n_steps
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, part, title in zip(panels, (slice(0, n), slice(-n, None)), ("first batch", "last batch"), strict=True):
        drawn = panel.scatter(
            x[part].ravel(),
            trace.payments[part].ravel(),
            c=trace.shaped[part].ravel(),
            s=2,
            cmap="RdBu",
            vmin=-shade,
            vmax=shade,
        )
        panel.set(xlabel=label, title=title)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("payment")
    figure.colorbar(drawn, ax=panels, label="dense reward")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
