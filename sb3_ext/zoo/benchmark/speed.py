"""Time and memory: environment steps per second of each vectorised form, steps per second and peak memory of algorithms.

Measurements are repeated in turn, so that a busy minute of the machine affects all contenders, and reported as medians.
"""

from __future__ import annotations

import itertools
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
from rl_zoo3.utils import ALGOS
from stable_baselines3.common import env_util
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from tqdm import tqdm

from irwrappers.files import write_text
from irwrappers.validation import check_range
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.zoo.benchmark.processes import run_in_processes
from sb3_ext.zoo.benchmark.run import commit

RESULTS = "speed.csv"
REFERENCES = {"environment": "vectorised", "learned reward": "PPO"}  # the variants that others are compared with
FORMS = ("vectorised", "DummyVecEnv", "SyncVectorEnv", "SubprocVecEnv")
# Format of speed.csv; n_envs is the number of parallel environments.
COLUMNS = ["measure", "env", "variant", "n_envs", "repeat", "steps_per_s", "peak_mib", "commit"]


@dataclass(frozen=True)
class Measurement:
    """One measurement of a suite: an environment in all its forms, or an algorithm on an environment.

    Args:
        measure: ``"environment"``, or for an algorithm the name of the group that it is compared within.
        env: Gymnasium id.
        variant: label of the algorithm; empty for an environment.
        amount: seconds of each repetition for an environment, iterations for an algorithm.
        repeats: number of repetitions.
        n_envs: number of parallel environments by form, for an environment.
        hyperparams: constructor arguments of the algorithm.
        algo: name of the algorithm; empty for an environment.
    """

    measure: str
    env: str
    variant: str
    amount: float
    repeats: int
    n_envs: dict[str, int] = field(default_factory=dict)
    hyperparams: dict[str, Any] = field(default_factory=dict)
    algo: str = ""


def plan(suite: dict[str, Any], budget: float, envs: Sequence[str], labels: Sequence[str]) -> list[Measurement]:
    """Return the measurements of a suite.

    Args:
        suite: from :func:`sb3_ext.zoo.benchmark.suites.load_suite`, with the key ``speed``.
        budget: fraction of the suite's seconds and iterations.
        envs: only measurements in these environments; all, if empty.
        labels: only these algorithms; all measurements, if empty.

    Raises:
        ValueError: for a name that the suite does not have.
    """
    check_range("--budget", budget, 0, open_low=True)
    settings = suite["speed"]
    algorithms = {label: (measure, of) for measure, group in settings["algorithms"].items() for label, of in group.items()}
    known_envs = {*settings["environments"], *(of["env"] for _, of in algorithms.values())}
    for name, known in [*((env, known_envs) for env in envs), *((label, algorithms) for label in labels)]:
        if name not in known:
            raise ValueError(f"Suite {suite['name']} has no {name!r}, only {', '.join(sorted(known))}.")
    forms, repeats = [], settings["repeats"]
    for env, n_envs in settings["environments"].items():
        counts = {form: n_envs for form in FORMS}
        counts["SubprocVecEnv"] = min(n_envs, settings["subproc_n_envs"])
        forms.append(Measurement("environment", env, "", budget * settings["seconds"], repeats, counts))
    learning = []
    for label, (measure, of) in algorithms.items():
        iterations = max(1, round(budget * of.get("iterations", settings["iterations"])))
        counted = {"amount": iterations, "repeats": of.get("repeats", repeats)}
        learning.append(Measurement(measure, of["env"], label, **counted, hyperparams=of["hyperparams"], algo=of["algo"]))
    chosen = [*([] if labels else forms), *(one for one in learning if not labels or one.variant in labels)]
    return [one for one in chosen if not envs or one.env in envs]


def measure_all(measurements: Sequence[Measurement], out: Path) -> pd.DataFrame:
    """Measure, write ``speed.csv``, ``table.csv`` and ``table.md``, and return the rows of ``speed.csv``.

    Args:
        measurements: from :func:`plan`.
        out: folder to write to.
    """
    learning = [one for one in measurements if one.algo]
    bar = tqdm(total=len(measurements) - len(learning) + sum(one.repeats for one in learning), desc="measurements")
    rows = []
    for one in measurements:
        if not one.algo:
            rows += _measure_environment(one)
            bar.update()
    for repeat in range(max((one.repeats for one in learning), default=0)):
        for one in learning:
            if repeat < one.repeats:
                (row,) = run_in_processes(_measure_algorithm, [(one,)])  # a fresh process, for its peak memory
                rows.append({"repeat": repeat, **row})
                bar.update()
    bar.close()
    results = pd.DataFrame(rows).assign(commit=commit()).reindex(columns=COLUMNS)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RESULTS, results.to_csv(index=False))
    report(out)
    return results


def _measure_environment(one: Measurement) -> list[dict[str, Any]]:
    """Return a row for each form and repetition, the forms in turn."""
    makers: dict[str, Callable[[], Any]] = {
        "vectorised": lambda: make_vec_env(one.env, one.n_envs["vectorised"], seed=0),
        "DummyVecEnv": lambda: env_util.make_vec_env(one.env, one.n_envs["DummyVecEnv"], seed=0, vec_env_cls=DummyVecEnv),
        "SyncVectorEnv": lambda: gym.make_vec(one.env, one.n_envs["SyncVectorEnv"], vectorization_mode="sync"),
        "SubprocVecEnv": lambda: env_util.make_vec_env(
            # "module:id" is imported in the processes, which have not registered our environments
            f"envs:{one.env}", one.n_envs["SubprocVecEnv"], seed=0, vec_env_cls=SubprocVecEnv,
        ),
    }  # fmt: skip
    envs: dict[str, Any] = {form: makers[form]() for form in FORMS}
    actions = {}
    for form, env in envs.items():
        env.reset()
        space = getattr(env, "single_action_space", env.action_space)
        space.seed(0)
        actions[form] = itertools.cycle([np.stack([space.sample() for _ in range(one.n_envs[form])]) for _ in range(64)])
    rows: list[dict[str, Any]] = []
    for repeat in range(-1, one.repeats):  # the first is not counted
        for form, env in envs.items():
            rate = _steps_per_second(env, actions[form], one.n_envs[form], one.amount if repeat >= 0 else one.amount / 10)
            named = {"measure": one.measure, "env": one.env, "variant": form, "n_envs": one.n_envs[form], "repeat": repeat}
            rows.append({**named, "steps_per_s": rate})
    for env in envs.values():
        env.close()
    return [row for row in rows if row["repeat"] >= 0]


def _steps_per_second(env: Any, actions: Iterable[np.ndarray], n_envs: int, seconds: float) -> float:
    start, steps = time.perf_counter(), 0
    for batch in actions:
        env.step(batch)
        steps += n_envs
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            break
    return steps / elapsed


class _IterationTimes(BaseCallback):
    """Record when iterations begin, and stop training after a number of whole ones."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.begun: list[tuple[float, int]] = []

    def _on_rollout_start(self) -> None:
        self.begun.append((time.perf_counter(), self.model.num_timesteps))

    def _on_step(self) -> bool:
        return len(self.begun) <= self.iterations + 1


def _measure_algorithm(one: Measurement) -> dict[str, Any]:
    model = ALGOS[one.algo]("MlpPolicy", one.env, seed=0, device="cpu", **one.hyperparams)
    callback = _IterationTimes(int(one.amount))
    model.learn(10**9, callback=callback)
    (start, before), (end, after) = callback.begun[1], callback.begun[-1]  # the first iteration warms up
    return {
        "measure": one.measure,
        "env": one.env,
        "variant": one.variant,
        "n_envs": model.n_envs,
        "steps_per_s": (after - before) / (end - start),
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    """Return the peak memory of this process in MiB.

    Linux gives it as VmHWM; ru_maxrss there is at least what the parent process held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) / 2**10  # type: ignore[union-attr]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def report(folder: Path) -> None:
    """Write ``table.csv`` and ``table.md``: medians, and how many times as fast the reference of each measure is.

    Args:
        folder: with ``speed.csv``, to which the tables are written.
    """
    results = pd.read_csv(folder / RESULTS)
    table = results.groupby(["measure", "env", "variant", "n_envs"], sort=False)[["steps_per_s", "peak_mib"]].median()
    table = table.reset_index()
    reference = table[table.variant == table.measure.map(REFERENCES)].set_index(["measure", "env"]).steps_per_s
    rates = [reference.get((row.measure, row.env), np.nan) for row in table.itertuples()]
    table["reference_is_faster"] = rates / table.steps_per_s
    write_text(folder / "table.csv", table.to_csv(index=False, float_format="%.6g"))
    lines = [
        "| measure | environment | variant | n_envs | steps/s | vectorised, or PPO, is as fast times | peak MiB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in table.to_dict("records"):
        ratio, peak = (
            "" if np.isnan(row[key]) else format(row[key], style)
            for key, style in (("reference_is_faster", ".1f"), ("peak_mib", ",.0f"))
        )
        cells = [row["measure"], row["env"], row["variant"], row["n_envs"], f"{row['steps_per_s']:,.0f}", ratio, peak]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    text = "\n".join([*lines, "", f"Medians of up to {results.repeat.max() + 1} repetitions, measured in turn.", ""])
    write_text(folder / "table.md", text)
    print(text)
