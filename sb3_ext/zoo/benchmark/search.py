"""The same hyperparameter search for every contender, all trials recorded: ``python -m sb3_ext.benchmark SUITE --search N``.

In every environment every contender has N trials with the same number of steps, on the same tuning seeds (1000, 1001, …; the
suite's own runs have seeds 0, 1, …). Trial 0 has the suite's settings; the others are sampled by Optuna's TPE from
``search_spaces.yml``, the first ten at random. The value of a trial is the area under the learning curve (scores.py), mean
over its seeds, with sampled actions if the suite evaluates them.

Files, in the subfolder ``search`` of the benchmark's folder: ``trials.csv``, a row for each trial; ``best.yml``, the best
trial's hyperparameters by environment and contender, for ``--best`` or the suite's key ``best``; ``search.md``, a summary; and
the runs, ``trial-N/…``. An interrupted search can be resumed, since a trial depends only on the trials before it, which are in
``trials.csv``.
"""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml
from rl_zoo3.utils import ALGOS

from irwrappers.files import write_text
from irwrappers.validation import check_range
from sb3_ext.zoo.benchmark import schedule
from sb3_ext.zoo.benchmark.run import ERROR, EVALUATIONS, commit
from sb3_ext.zoo.benchmark.scores import Scoring, seed_statistics
from sb3_ext.zoo.benchmark.suites import Run, cases, resolve_run, scoring

FOLDER, TRIALS, BEST, SUMMARY = "search", "trials.csv", "best.yml", "search.md"
SPACES = Path(__file__).with_name("search_spaces.yml")
FIRST_SEED = 1000  # far from the seeds of the suite's runs
SEEDS = 2
ROLLOUT = "rollout"
STARTUP = 10  # random trials before TPE
COLUMNS = (
    "suite", "env", "algo", "trial", "state", "value", "timesteps", "seeds", "wall_s", "commit", "params", "hyperparams",
)  # fmt: skip


class Search:
    """Hyperparameter search over all environments and contenders of a suite.

    Args:
        suite: from :func:`sb3_ext.zoo.benchmark.suites.load_suite`.
        out: folder of the benchmark.
        n_trials: number of trials of each contender in each environment, finished ones included.
        budget: fraction of the suite's timesteps, for each trial.
        seeds: number of tuning seeds; None: the suite's ``search: seeds:``, or 2.
        envs: only these environments; all, if empty.
        labels: only these contenders; all, if empty.

    Raises:
        ValueError: if a contender has no search space, or one with an unknown name, or if the folder holds another search.
    """

    def __init__(
        self,
        suite: dict[str, Any],
        out: Path,
        n_trials: int,
        budget: float = 1.0,
        seeds: int | None = None,
        envs: Sequence[str] = (),
        labels: Sequence[str] = (),
    ) -> None:
        check_range("--search", n_trials, 1, integer=True)
        given = suite.get("search", {})
        n_seeds = given.get("seeds", SEEDS) if seeds is None else seeds
        check_range("--seeds", n_seeds, 1, integer=True)
        self.suite, self.folder, self.n_trials, self.budget = suite, out / FOLDER, n_trials, budget
        self.seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
        self.scoring = Scoring(**scoring(suite))
        self.cases = cases(suite, budget, envs, labels)
        self.spaces = {case: self._space(*case) for case in self.cases}
        self.base = {case: resolve_run(suite, *case, budget) for case in self.cases}
        for case, space in self.spaces.items():  # report an unknown name now, not in the second trial
            self._run(case, {name: low_end(entry) for name, entry in space.items()})
        self._check_trials()

    def run(self, jobs: int = 1, ray: str | None = None) -> list[Path]:
        """Run the missing trials, write all files, and return the error files of the runs that failed.

        Args:
            jobs: number of runs at the same time.
            ray: address of a Ray cluster.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        failed: list[Path] = []
        try:
            for trial in range(self.n_trials):
                failed += self._trial(trial, jobs, ray)
        finally:  # also after Ctrl-C, for the finished trials
            self._report()
        return failed

    def _trial(self, trial: int, jobs: int, ray: str | None) -> list[Path]:
        """Run one trial of every contender that does not have it yet, in parallel."""
        known = self.trials()
        out = self.folder / f"trial-{trial:03}"
        params = {}
        for case in self.cases:
            own = known[(known.env == case[0]) & (known.algo == case[1])]
            if trial not in set(own.trial):
                params[case] = suggest(self.spaces[case], own[own.trial < trial], trial)
        runs = {case: self._run(case, chosen) for case, chosen in params.items()}
        seeded = [replace(run, seed=seed) for seed in self.seeds for run in runs.values()]
        todo = schedule.unfinished(seeded, out, overwrite=True)
        failed = schedule.run_all(todo, out, jobs, ray) if todo else []
        for case, run in runs.items():
            succeeded = not any((other.env, other.label) == case for other in failed)
            self._append(trial, run, params[case], out, succeeded)
        return [run.folder(out) / ERROR for run in failed]

    def trials(self) -> pd.DataFrame:
        """Return the rows of ``trials.csv``."""
        path = self.folder / TRIALS
        types = {"commit": str, "seeds": str}
        return (
            pd.read_csv(path, dtype=types, float_precision="round_trip") if path.is_file() else pd.DataFrame(columns=COLUMNS)
        )

    def _run(self, case: tuple[str, str], params: dict[str, Any]) -> Run:
        base = self.base[case]
        return resolve_run(self.suite, *case, self.budget, hyperparams_of(params, base.algo, base.hyperparams))

    def _space(self, env: str, label: str) -> dict[str, Any]:
        algo = self.suite["contenders"][label]["algo"]
        spaces = {**yaml.safe_load(SPACES.read_text(encoding="utf-8")), **self.suite.get("search", {}).get("spaces", {})}
        space = spaces.get(label, spaces.get(algo))
        if space is None:
            raise ValueError(f"There is no search space for {label} ({algo}); give the suite one: search: spaces: {label}: …")
        return space

    def _check_trials(self) -> None:
        """Raise ValueError if the recorded trials belong to another search."""
        trials = self.trials()
        for (env, label), base in self.base.items():
            own = trials[(trials.env == env) & (trials.algo == label)]
            now = {"timesteps": base.timesteps, "seeds": " ".join(map(str, self.seeds))}
            for name, value in now.items():
                other = set(own[name]) - {value}
                if other:
                    raise ValueError(
                        f"{self.folder} holds trials of {env} {label} with {name} {other.pop()}, and now it is {value}. "
                        "Choose another --out."
                    )
            first = own[own.trial == 0].hyperparams
            if len(first) and json.loads(first.iloc[0]) != base.hyperparams:
                raise ValueError(f"{self.folder} holds trials of {env} {label} with other settings. Choose another --out.")

    def _append(self, trial: int, run: Run, params: dict[str, Any], out: Path, succeeded: bool) -> None:
        value, wall_s = np.nan, np.nan
        if succeeded:
            folders = [replace(run, seed=seed).folder(out) for seed in self.seeds]
            rows = pd.concat([pd.read_csv(folder / EVALUATIONS, dtype={"commit": str}) for folder in folders])
            rows = rows[(rows.env == run.env) & (rows.actions == ("sampled" if "sampled" in run.actions else run.actions[0]))]
            value = float(seed_statistics(rows, self.scoring).area.mean())
            wall_s = round(float(rows.groupby("seed").wall_s.max().sum()), 1)
        path = self.folder / TRIALS
        new = not path.is_file()
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            about = ("failed" if np.isnan(value) else "complete", value, run.timesteps, " ".join(map(str, self.seeds)), wall_s)
            settings = (json.dumps(params), json.dumps(run.hyperparams))
            writer.writerow([run.suite, run.env, run.label, trial, *about, commit(), *settings])

    def _report(self) -> None:
        """Write ``best.yml`` and ``search.md``."""
        trials = self.trials()
        best: dict[str, dict[str, Any]] = {}
        lines = [
            "| environment | contender | trials | failed | value of trial 0 | best value | trial | its hyperparameters |",
            "|---|---|---:|---:|---:|---:|---:|---|",
        ]
        for (env, label), own in trials.groupby(["env", "algo"], sort=False):
            complete = own[own.state == "complete"]
            if not len(complete):
                continue
            top = complete.loc[complete.value.idxmax()]
            given = complete[complete.trial == 0].value
            algo = self.suite["contenders"].get(label, {}).get("algo", label)
            chosen = hyperparams_of(json.loads(top.params), algo, json.loads(top.hyperparams))
            best.setdefault(env, {})[label] = chosen
            shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in chosen.items()}
            words = ", ".join(f"{name} {value}" for name, value in shown.items()) or "the suite's own"
            first = f"{given.iloc[0]:.3f}" if len(given) else "failed"
            numbers = f"{len(own)} | {len(own) - len(complete)} | {first} | {top.value:.3f} | {top.trial}"
            lines.append(f"| {env} | {label} | {numbers} | {words} |")
        with open(self.folder / BEST, "w", encoding="utf-8") as file:
            file.write("# The best of the trials in trials.csv, written by python -m sb3_ext.benchmark SUITE --search N.\n")
            yaml.safe_dump(best, file, sort_keys=False)
        caption = (
            f"Value: area under the learning curve of the score, mean over the tuning seeds {self.seeds[0]} to "
            f"{self.seeds[-1]}. Trial 0 has the suite's own settings. The best of many values is biased upwards: compare "
            "contenders by runs with other seeds (--best)."
        )
        text = "\n".join([*lines, "", caption, ""])
        write_text(self.folder / SUMMARY, text)
        print(text)


def suggest(space: dict[str, Any], trials: pd.DataFrame, trial: int) -> dict[str, Any]:
    """Return the parameters of a trial, which depend on the trials before it and on nothing else.

    Args:
        space: entries of ``search_spaces.yml`` by parameter.
        trials: rows of the trials before.
        trial: number of this trial; trial 0 has no parameters.
    """
    if trial == 0:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(entry) for name, entry in space.items()}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=trial, n_startup_trials=STARTUP))
    for row in trials[trials.trial > 0].sort_values("trial").itertuples():
        complete = row.state == "complete"
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.FAIL,
                params=json.loads(row.params),
                distributions=distributions,
                value=float(row.value) if complete else None,
            )
        )
    return study.ask(distributions).params


def hyperparams_of(params: dict[str, Any], algo: str, hyperparams: dict[str, Any]) -> dict[str, Any]:
    """Return sampled parameters as hyperparameters: ``rollout`` becomes the algorithm's ``n_steps`` or ``batch_size``.

    Args:
        params: parameters of a trial.
        algo: name of the algorithm.
        hyperparams: hyperparameters of the run, for its number of environments.
    """
    result = dict(params)
    if ROLLOUT in result:
        transitions = result.pop(ROLLOUT)
        if "n_steps" in inspect.signature(ALGOS[algo].__init__).parameters:
            result["n_steps"] = max(1, transitions // hyperparams.get("n_envs", 1))
        else:
            result["batch_size"] = transitions
    return result


def low_end(entry: Any) -> Any:
    """Return the first choice, or the lower end of an interval.

    Args:
        entry: of ``search_spaces.yml``.
    """
    return entry[0] if isinstance(entry, list) else entry["low"]


def _distribution(entry: Any) -> optuna.distributions.BaseDistribution:
    if isinstance(entry, list):
        return optuna.distributions.CategoricalDistribution(entry)
    kind = optuna.distributions.IntDistribution if isinstance(entry["low"], int) else optuna.distributions.FloatDistribution
    return kind(entry["low"], entry["high"], log=entry.get("log", False))
