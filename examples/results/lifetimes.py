"""Which payment makes an agent learn an unseen task within a lifetime: what the task pays, or what was learned to be paid.

    python examples/results/lifetimes.py lifetime/PointGoal-v1 point_goal                # a model that comes with the package
    python examples/results/lifetimes.py lifetime/ML1-reach-v3 MODEL.safetensors … --out FOLDER  # of save_reward_model
    python examples/results/lifetimes.py lifetime/ML10-v3 MODEL.safetensors --rl2 MODEL.zip --goals other  # not other types

``--rl2`` sets a trained RL² beside them, which is paid nothing: it acts through its memory, with arg-max actions.

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
from sb3_contrib import RecurrentPPO
from scipy.stats import bootstrap
from tqdm import tqdm

from sb3_ext.meta import RewardModel, TrialVecEnv
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
    parser.add_argument("--rl2", type=Path, help="model.zip of python -m sb3_ext.train --algo rl2")
    parser.add_argument(
        "--goals",
        choices=("test", "other"),
        default="test",
        help="the family's own test split, or unseen goals of the training split's task types (of Meta-World's families)",
    )
    given = parser.parse_args()
    models = {Path(name).stem: RewardModel.load(name) for name in given.models}
    rl2 = RecurrentPPO.load(given.rl2) if given.rl2 else None
    first = next(iter(models.values()))
    payers: dict[str, Any] = {**models, "sparse": "sparse", "shaped": "shaped"}
    # Meta-World's own tests of ML1 are the goals of the next seed as well.
    family = make_family(given.family, "test") if given.goals == "test" else make_family(given.family, "train", seed=1)
    success: dict[str, np.ndarray] = {}
    traces: dict[str, Trace] = {}
    seeds = range(100, 100 + given.seeds)
    with tqdm(total=(len(payers) + (rl2 is not None)) * len(seeds), desc="lifetimes", unit="seed") as bar:
        for name, payer in payers.items():
            env = make_evaluation_env(family, payer, given.lifetimes, first.inner, first.env, given.jobs)
            rows = []
            for seed in seeds:
                traces[name] = run_lifetimes(env, payer, seed)
                rows.append(traces[name].success.mean(1))
                bar.update()
            success[name] = np.stack(rows)
            env.close()
        if rl2 is not None:
            success["RL²"] = run_rl2(rl2, family, first, seeds, given, bar)
    given.out.mkdir(parents=True, exist_ok=True)
    write(given.out, seeds, success)
    draw_success(given.out / "success.png", success)
    draw_traces(given.out / "traces.png", traces[next(iter(models))], first)
    print((given.out / "table.md").read_text())


def run_rl2(model: RecurrentPPO, family: Any, like: RewardModel, seeds: range, given: argparse.Namespace, bar: tqdm) -> Any:
    """Share of successful episodes ``[seeds, n_batches]`` in trials as long as the lifetimes of ``like``."""
    trials = TrialVecEnv(
        family, given.lifetimes, like.inner.n_steps, like.inner.n_batches, env_kwargs=like.env, n_jobs=given.jobs, seed=0
    )
    rows = []
    for seed in seeds:
        trials.seed(seed)
        observations, state, begins = trials.reset(), None, np.ones(given.lifetimes, bool)
        while True:
            actions, state = model.predict(observations, state, begins, deterministic=True)
            observations, _, begins, infos = trials.step(actions)
            if begins.all():
                break
        rows.append(np.mean([info["lifetime"]["success"] for info in infos], 0))
        bar.update()
    trials.close()
    return np.stack(rows)


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
