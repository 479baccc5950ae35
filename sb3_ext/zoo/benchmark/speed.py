"""Time and memory: environment steps per second in each form, algorithms' steps per second and peak memory.

Measurements are repeated in turn, so that a busy minute of the machine meets all contenders, and quoted as medians.
"""

from __future__ import annotations

import itertools
import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
from stable_baselines3 import PPO
from stable_baselines3.common import env_util
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from tqdm import tqdm

from irwrappers.validation import check_range
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.zoo.benchmark.run import commit
from sb3_ext.zoo.benchmark.schedule import end_with_parent
from sb3_ext.zoo.cli import OUR_ALGOS
from sb3_ext.zoo.environments import import_envs

RESULTS = "speed.csv"
ALGORITHMS: dict[str, Any] = {"ppo": PPO, **OUR_ALGOS}
REFERENCES = {"environment": "vectorised", "learned reward": "PPO"}  # the variants that others are compared with
FORMS = ("vectorised", "DummyVecEnv", "SyncVectorEnv", "SubprocVecEnv")
COLUMNS = ["measure", "env", "variant", "copies", "repeat", "steps_per_s", "peak_mib", "commit"]


@dataclass(frozen=True)
class Measurement:
    """``measure`` is ``"environment"`` (all forms, in turn) or what algorithms are measured for; ``amount`` is seconds or
    iterations."""

    measure: str
    env: str
    variant: str
    amount: float
    repeats: int
    copies: dict[str, int] = field(default_factory=dict)
    hyperparams: dict[str, Any] = field(default_factory=dict)
    algo: str = ""


def plan(suite: dict[str, Any], budget: float, envs: Sequence[str], labels: Sequence[str]) -> list[Measurement]:
    """The suite's measurements; ``envs`` restricts all kinds, ``labels`` the algorithms' (one not there is an error)."""
    check_range("--budget", budget, 0, open_low=True)
    settings = suite["speed"]
    algorithms = {label: (measure, of) for measure, group in settings["algorithms"].items() for label, of in group.items()}
    known_envs = {*settings["environments"], *(of["env"] for _, of in algorithms.values())}
    for name, known in [*((env, known_envs) for env in envs), *((label, algorithms) for label in labels)]:
        if name not in known:
            raise ValueError(f"Suite {suite['name']} has no {name!r}, only {', '.join(sorted(known))}.")
    forms, repeats = [], settings["repeats"]
    for env, copies in settings["environments"].items():
        counts = {form: copies for form in FORMS}
        counts["SubprocVecEnv"] = min(copies, settings["subproc_copies"])
        forms.append(Measurement("environment", env, "", budget * settings["seconds"], repeats, counts))
    learning = []
    for label, (measure, of) in algorithms.items():
        iterations = max(1, round(budget * of.get("iterations", settings["iterations"])))
        counted = {"amount": iterations, "repeats": of.get("repeats", repeats)}
        learning.append(Measurement(measure, of["env"], label, **counted, hyperparams=of["hyperparams"], algo=of["algo"]))
    chosen = [*([] if labels else forms), *(one for one in learning if not labels or one.variant in labels)]
    return [one for one in chosen if not envs or one.env in envs]


def measure_all(measurements: Sequence[Measurement], out: Path) -> pd.DataFrame:
    """Measure, write ``speed.csv``, ``table.csv`` and ``table.md`` to ``out`` and return the rows."""
    learning = [one for one in measurements if one.algo]
    bar = tqdm(total=len(measurements) - len(learning) + sum(one.repeats for one in learning), desc="measurements")
    rows = []
    for one in measurements:
        if not one.algo:
            rows += _environment(one)
            bar.update()
    for repeat in range(max((one.repeats for one in learning), default=0)):
        for one in learning:
            if repeat < one.repeats:
                rows.append({"repeat": repeat, **_in_process(_learning, one)})
                bar.update()
    bar.close()
    results = pd.DataFrame(rows).assign(commit=commit()).reindex(columns=COLUMNS)
    out.mkdir(parents=True, exist_ok=True)
    results.to_csv(out / RESULTS, index=False)
    report(out)
    return results


def _in_process(function: Callable[[Measurement], dict], one: Measurement) -> dict[str, Any]:
    """In a fresh process, whose peak memory is that of this measurement."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(function, one).result()


def _environment(one: Measurement) -> list[dict[str, Any]]:
    """Each form, a measurement each in turn."""
    makers: dict[str, Callable[[], Any]] = {
        "vectorised": lambda: make_vec_env(one.env, one.copies["vectorised"], seed=0),
        "DummyVecEnv": lambda: env_util.make_vec_env(one.env, one.copies["DummyVecEnv"], seed=0, vec_env_cls=DummyVecEnv),
        "SyncVectorEnv": lambda: gym.make_vec(one.env, one.copies["SyncVectorEnv"], vectorization_mode="sync"),
        "SubprocVecEnv": lambda: env_util.make_vec_env(
            # a "module:id" is imported in the processes, which know none of our environments
            f"envs:{one.env}", one.copies["SubprocVecEnv"], seed=0, vec_env_cls=SubprocVecEnv,
        ),
    }  # fmt: skip
    envs: dict[str, Any] = {form: makers[form]() for form in FORMS}
    actions = {}
    for form, env in envs.items():
        env.reset()
        space = getattr(env, "single_action_space", env.action_space)
        space.seed(0)
        drawn = (np.stack([space.sample() for _ in range(one.copies[form])]) for _ in range(64))
        actions[form] = itertools.cycle(list(drawn))
    rows: list[dict[str, Any]] = []
    for repeat in range(-1, one.repeats):  # the first is not counted
        for form, env in envs.items():
            rate = _steps_per_second(env, actions[form], one.copies[form], one.amount if repeat >= 0 else one.amount / 10)
            named = {"measure": one.measure, "env": one.env, "variant": form, "copies": one.copies[form], "repeat": repeat}
            rows.append({**named, "steps_per_s": rate})
    for env in envs.values():
        env.close()
    return [row for row in rows if row["repeat"] >= 0]


def _steps_per_second(env: Any, actions: Iterable[np.ndarray], copies: int, seconds: float) -> float:
    start, steps = time.perf_counter(), 0
    for batch in actions:
        env.step(batch)
        steps += copies
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            break
    return steps / elapsed


class _Iterations(BaseCallback):
    """Notes when iterations begin, and stops once enough were whole."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.begun: list[tuple[float, int]] = []

    def _on_rollout_start(self) -> None:
        self.begun.append((time.perf_counter(), self.model.num_timesteps))

    def _on_step(self) -> bool:
        return len(self.begun) <= self.iterations + 1


def _learning(one: Measurement) -> dict[str, Any]:
    import_envs()
    model = ALGORITHMS[one.algo]("MlpPolicy", one.env, seed=0, device="cpu", **one.hyperparams)
    callback = _Iterations(int(one.amount))
    model.learn(10**9, callback=callback)
    (start, before), (end, after) = callback.begun[1], callback.begun[-1]  # the first warms up
    return {
        "measure": one.measure,
        "env": one.env,
        "variant": one.variant,
        "copies": model.n_envs,
        "steps_per_s": (after - before) / (end - start),
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    """Of this process. Linux gives it as VmHWM; ru_maxrss there is at least what the process that started it held."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) / 2**10  # type: ignore[union-attr]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)


def report(folder: Path) -> None:
    """``table.csv`` and ``table.md`` of a folder's ``speed.csv``: medians, and the reference against each."""
    results = pd.read_csv(folder / RESULTS)
    table = results.groupby(["measure", "env", "variant", "copies"], sort=False)[["steps_per_s", "peak_mib"]].median()
    table = table.reset_index()
    reference = table[table.variant == table.measure.map(REFERENCES)].set_index(["measure", "env"]).steps_per_s
    rates = [reference.get((row.measure, row.env), np.nan) for row in table.itertuples()]
    table["reference_is_faster"] = rates / table.steps_per_s
    table.to_csv(folder / "table.csv", index=False, float_format="%.6g")
    lines = [
        "| measure | environment | variant | copies | steps/s | vectorised, or PPO, is as fast times | peak MiB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for row in table.to_dict("records"):
        ratio, peak = (
            "" if np.isnan(row[key]) else format(row[key], style)
            for key, style in (("reference_is_faster", ".1f"), ("peak_mib", ",.0f"))
        )
        cells = [row["measure"], row["env"], row["variant"], row["copies"], f"{row['steps_per_s']:,.0f}", ratio, peak]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    text = "\n".join([*lines, "", f"Medians of up to {results.repeat.max() + 1} repetitions, measured in turn.", ""])
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
