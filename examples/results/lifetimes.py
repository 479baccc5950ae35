"""Which reward makes an agent learn an unseen task within a lifetime: the task's own, or a learned one.

    python examples/results/lifetimes.py lifetime/PointGoalUpper-v0 point_goal          # a model that comes with the package
    python examples/results/lifetimes.py lifetime/ML1-reach-v3 reward=MODEL.safetensors … --out FOLDER  # of save_reward_model
    python examples/results/lifetimes.py lifetime/ML10-v3 MODEL.safetensors --rl2 MODEL.zip --goals other  # not other types

``--rl2`` adds a trained RL², which receives no reward: it adapts through its memory.

Writes ``success.csv`` (share of successful episodes in each batch of a lifetime; each row once it is measured), ``table.md``
(the last batch, mean and 95 % bootstrap interval over these seeds of tasks and agents, not of training), ``success.png`` and,
of the first model, ``traces.png``: the reward of each step, over the distance to the goal, by the dense reward (of
tasks of Meta-World over the dense reward, by its progress). ``tasks.csv`` and ``table-tasks.md`` hold each type of task, where
there are several.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sb3_contrib import RecurrentPPO
from scipy.stats import bootstrap
from tqdm import tqdm

from sb3_ext.meta import LifetimeVecEnv, RewardModel, TrialVecEnv
from sb3_ext.meta.lifetimes.dense_rewards import bounded_dense_rewards
from sb3_ext.meta.outer_learners.evaluation import Trace, make_evaluation_env, run_lifetimes
from sb3_ext.zoo.lifetime_families import make_family

COLORS = {"shaped": "#7a7a7a", "sparse": "#c9a227", "progress": "#3a3a3a"}
RL2 = ("RL²", "RL², arg-max")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", help="lifetime/…, an id of sb3_ext.zoo.lifetime_families")
    parser.add_argument("models", nargs="+", help="[LABEL=]file, or name of one in the package")
    parser.add_argument("--seeds", type=int, default=10, help="from 100 on")
    parser.add_argument("--lifetimes", type=int, default=64, help="side by side, for each seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes, for environments that have no vectorised form")
    parser.add_argument("--out", type=Path, default=Path("logs", "lifetimes"))
    parser.add_argument("--rl2", type=Path, help="model.zip of python -m sb3_ext.train --algo rl2")
    parser.add_argument("--progress", action="store_true", help="and agents that receive the growth of the dense reward")
    parser.add_argument("--resume", action="store_true", help="keep the rows of OUT/success.csv, of the same models")
    parser.add_argument(
        "--goals",
        choices=("test", "other"),
        default="test",
        help="the family's own test split, or unseen goals of the training split's task types (of Meta-World's families)",
    )
    given = parser.parse_args()
    models = load_models(given.models)
    first = next(iter(models.values()))
    sources: dict[str, Any] = {**models, "sparse": "sparse", "shaped": "shaped"}
    if given.progress:
        sources["progress"] = "progress"
    if given.rl2:
        sources |= dict.fromkeys(RL2, RecurrentPPO.load(given.rl2))
    # Meta-World's own tests of ML1 are the goals of the next seed as well.
    family = make_family(given.family, "test") if given.goals == "test" else make_family(given.family, "train", seed=1)
    seeds = range(100, 100 + given.seeds)
    given.out.mkdir(parents=True, exist_ok=True)
    first_trace: Trace | None = None
    measured = Measured(given.out / "success.csv", first.inner.n_batches, given.resume)
    with tqdm(total=len(sources) * len(seeds), desc="lifetimes", unit="seed") as bar:
        for name, source in sources.items():
            env = make_env(family, source, first, given)
            for seed in seeds:
                if (name, seed) not in measured.rows:
                    trace, success, kinds = run(env, name, source, seed)
                    measured.add(name, seed, success, kinds)
                    first_trace = trace if source is first else first_trace
                bar.update()
            env.close()
    by_source = {name: np.stack([measured.rows[name, seed] for seed in seeds]) for name in sources}
    write_table(given.out / "table.md", by_source)
    write_tasks(given.out / "table-tasks.md", measured.by_task)
    plot_success(given.out / "success.png", by_source)
    if first_trace is None:  # its rows were there
        first_trace = run_lifetimes(make_env(family, first, first, given), first, seeds[-1])
    plot_traces(given.out / "traces.png", first_trace, first)
    print((given.out / "table.md").read_text())


def load_models(given: list[str]) -> dict[str, RewardModel]:
    """By their labels; those of files are the files' names, if they are not given."""
    pairs = [name.split("=", 1) if "=" in name else [Path(name).stem, name] for name in given]
    labels = [label for label, _ in pairs]
    twice = {label for label in labels if labels.count(label) > 1 or label in (*COLORS, *RL2)}
    if twice:
        raise SystemExit(f"More than one row would be called {sorted(twice)}; name the models, as in LABEL={pairs[0][1]}.")
    return {label: RewardModel.load(path) for label, path in pairs}


def make_env(family: Any, source: Any, like: RewardModel, given: argparse.Namespace) -> LifetimeVecEnv | TrialVecEnv:
    """Lifetimes, or for RL² trials, as long as those in which ``like`` was trained."""
    inner = like.inner
    if isinstance(source, RecurrentPPO):
        return TrialVecEnv(
            family, given.lifetimes, inner.n_steps, inner.n_batches, env_kwargs=like.env, n_jobs=given.jobs, seed=0
        )
    return make_evaluation_env(family, source, given.lifetimes, inner, like.env, given.jobs)


def run(env: Any, name: str, source: Any, seed: int) -> tuple[Trace | None, np.ndarray, list[str]]:
    """Return the lifetimes (None for RL²), the share of successful episodes ``[n_batches, B]``, and the ids of the tasks."""
    if not isinstance(source, RecurrentPPO):
        trace = run_lifetimes(env, source, seed)
        return trace, trace.success, [task.env_id for task in trace.tasks]
    env.seed(seed)
    torch.manual_seed(seed)
    observations, state, begins = env.reset(), None, np.ones(env.num_envs, bool)
    while True:
        actions, state = source.predict(observations, state, begins, deterministic=name == RL2[1])
        observations, _, begins, infos = env.step(actions)
        if begins.all():
            lifetimes = [info["lifetime"] for info in infos]
            return None, np.transpose([one["success"] for one in lifetimes]), [one["task"].env_id for one in lifetimes]


class Measured:
    """Files of rows, written one by one: nothing is lost by an interruption. ``by_task`` has a row for each type of task."""

    def __init__(self, path: Path, n_batches: int, resume: bool) -> None:
        self.path, self.by_task = path, path.with_stem("tasks")
        self.rows = dict[tuple[str, int], np.ndarray]()
        batches = [f"batch {i + 1}" for i in range(n_batches)]
        if not (resume and path.is_file()):
            write_row(path, "w", ["reward", "seed", *batches])
        if not (resume and self.by_task.is_file()):
            write_row(self.by_task, "w", ["reward", "seed", "task", "lifetimes", *batches])
        with open(path, newline="") as file:
            for name, seed, *values in list(csv.reader(file))[1:]:
                self.rows[name, int(seed)] = np.array(values, dtype=float)

    def add(self, name: str, seed: int, success: np.ndarray, kinds: list[str]) -> None:
        self.rows[name, seed] = success.mean(1)
        for kind in sorted(set(kinds)):
            of_kind = success[:, np.array(kinds) == kind]
            write_row(self.by_task, "a", [name, seed, kind, of_kind.shape[1], *of_kind.mean(1).round(4)])
        write_row(self.path, "a", [name, seed, *self.rows[name, seed].round(4)])


def write_row(path: Path, mode: str, row: list[Any]) -> None:
    with open(path, mode, newline="") as file:
        csv.writer(file).writerow(row)


def write_tasks(path: Path, by_task: Path) -> None:
    """The last batch's success on each type of task, where there are several."""
    rows = pd.read_csv(by_task)
    if rows["task"].nunique() < 2:
        by_task.unlink()
        return
    rows["successes"] = rows.iloc[:, -1] * rows["lifetimes"]
    sums = rows.groupby(["task", "reward"])[["successes", "lifetimes"]].sum()
    shares = (sums["successes"] / sums["lifetimes"]).unstack()[rows["reward"].unique()]
    lines = [f"| task | {' | '.join(shares)} |", "|---|" + "---:|" * len(shares.columns)]
    lines += [f"| {task} | {' | '.join(f'{share:.2f}' for share in of_task)} |" for task, of_task in shares.iterrows()]
    path.write_text("\n".join(lines) + "\n")


def write_table(path: Path, success: dict[str, np.ndarray]) -> None:
    lines = ["| reward | success in the last batch | 95 % interval |", "|---|---:|---|"]
    for name, rows in success.items():
        low, high = interval(rows[:, -1])
        lines.append(f"| {name} | {rows[:, -1].mean():.3f} | {low:.3f} to {high:.3f} |")
    path.write_text("\n".join(lines) + "\n")


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean ``[n]``; of one value itself."""
    if len(values) == 1:
        return float(values[0]), float(values[0])
    result = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def plot_success(path: Path, success: dict[str, np.ndarray]) -> None:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    panel = figure.subplots()
    for name, rows in success.items():
        batches = np.arange(1, rows.shape[1] + 1)
        low, high = np.transpose([interval(column) for column in rows.T])
        (line,) = panel.plot(batches, rows.mean(0), label=name, color=COLORS.get(name), marker="o", markersize=3)
        panel.fill_between(batches, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    panel.set_xticks(batches)
    panel.set(xlabel="batch of a lifetime", ylabel="share of episodes that succeed, unseen goals", ylim=(0, 1))
    panel.grid(alpha=0.25)
    panel.legend()
    figure.savefig(path, dpi=150)


def plot_traces(path: Path, trace: Trace, model: RewardModel) -> None:
    """Rewards of the first and the last batch, over the distance to the goal or the dense reward."""
    if hasattr(trace.tasks[0], "goal_angle"):
        goals = np.array([[np.cos(task.goal_angle), np.sin(task.goal_angle)] for task in trace.tasks])
        x, label = np.linalg.norm(trace.observations - goals, axis=-1), "distance to the goal"
        color, color_label = trace.shaped, "dense reward"
    else:
        x, label = trace.shaped, "dense reward"
        continues = ~np.concatenate([np.ones_like(trace.done[:1]), trace.done[:-1]])
        color, color_label = bounded_dense_rewards("progress", x, continues, np.abs(x).mean(0)), "reward by its progress"
    shade = np.quantile(np.abs(color), 0.999)
    n = model.inner.n_steps
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, part, title in zip(panels, (slice(0, n), slice(-n, None)), ("first batch", "last batch"), strict=True):
        points = panel.scatter(
            x[part].ravel(),
            trace.rewards[part].ravel(),
            c=color[part].ravel(),
            s=2,
            cmap="RdBu",
            vmin=-shade,
            vmax=shade,
        )
        panel.set(xlabel=label, title=title)
        panel.grid(alpha=0.25)
    panels[0].set_ylabel("reward")
    figure.colorbar(points, ax=panels, label=color_label)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
