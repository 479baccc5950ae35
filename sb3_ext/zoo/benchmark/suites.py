"""A suite is data: what is compared on what, for how long. Its YAML file becomes a list of :class:`Run`.

.. code-block:: yaml

    description: what is asked
    evaluations: 40                # of a run, evenly spaced over its timesteps
    episodes: 100                  # of an evaluation
    actions: [argmax, sampled]     # one row each
    undiscounted: true             # returns are sums; else, and where it is left out, discounted with the model's gamma
    environments:                  # may have evaluations, episodes and actions of their own,
      sparse/Maze1-v0:              # and contenders: those of them that run here, with their settings here
        timesteps: 5_000_000
        evaluate_in:               # as well as in that of training; rows of the environment "sparse/Maze1-v0, any start"
          any start: {random_start: true}
    contenders:
      irpo: {algo: irpo, seeds: 10}
      no trust region: {algo: irpo, seeds: 3, hyperparams: {base_update: sgd}}
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from rl_zoo3.utils import ALGOS

from sb3_ext.common.arguments import check_choice, check_range
from sb3_ext.zoo.environments import is_atari, require_atari
from sb3_ext.zoo.manager import ExperimentManager

SUITES = Path(__file__).parent / "suites"
ACTIONS = ("argmax", "sampled")
_EVALUATION = ("evaluations", "episodes", "actions")


@dataclass(frozen=True)
class Run:
    """Everything that determines a run's numbers, but for the code."""

    suite: str
    env: str
    label: str
    algo: str
    seed: int
    timesteps: int
    evaluations: int
    episodes: int
    actions: list[str]
    hyperparams: dict[str, Any]
    evaluate_in: dict[str, dict[str, Any]] | None = None  # arguments of the environment that differ there, by name
    undiscounted: bool | None = None  # None, not False: runs from before it was there have no entry

    def folder(self, out: Path) -> Path:
        """Where the run keeps its files."""
        return out / self.env.replace("/", "-") / self.label / f"seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.env} {self.label} seed {self.seed}"


def suite_names() -> list[str]:
    """Those that come with the package."""
    return sorted(path.stem for path in SUITES.glob("*.yml"))


def load_suite(name: str) -> dict[str, Any]:
    """A suite's data by name, or by the path of a YAML file.

    Raises:
        ValueError: an unknown name, no such file, or data that is no suite.
    """
    path = Path(name) if name.endswith((".yml", ".yaml")) else SUITES / f"{name}.yml"
    if not path.is_file():
        raise ValueError(f"There is no file {name}." if path == Path(name) else _unknown("suite", name, suite_names()))
    suite = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(suite, dict):
        raise ValueError(f"{path.name}: expected a mapping with environments and contenders, got {type(suite).__name__}.")
    if "speed" not in suite:
        _check_suite(suite, path.name)
    return {"name": path.stem, **suite}


def plan(
    suite: dict[str, Any],
    budget: float = 1.0,
    seeds: int | None = None,
    envs: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> list[Run]:
    """The runs of a suite, the first seed of everything first.

    Args:
        suite: from :func:`load_suite`.
        budget: share of each environment's timesteps.
        seeds: instead of the suite's numbers of seeds.
        envs, labels: only these; all, if empty.

    Raises:
        ValueError: a name that the suite does not have, an unknown algorithm, missing or mistaken hyperparameters.
        ImportError: a game, and no ale-py.
    """
    check_range("--budget", budget, 0, open_low=True)
    if seeds is not None:
        check_range("--seeds", seeds, 1, integer=True)
    for kind, given, known in (("--env", envs, suite["environments"]), ("--algo", labels, suite["contenders"])):
        for name in given:
            if name not in known:
                raise ValueError(_unknown(f"{kind} of suite {suite['name']}", name, known))
    runs = []
    for env in envs or suite["environments"]:
        require_atari(env)
        settings = {**suite, **suite["environments"][env]}
        here = settings["contenders"]
        for label in here:
            if labels and label not in labels:
                continue
            contender = _merged(suite["contenders"][label], suite["environments"][env].get("contenders", {}).get(label))
            timesteps = max(1, round(budget * settings["timesteps"]))
            hyperparams = resolve_hyperparams(contender["algo"], env, contender.get("hyperparams") or {}, timesteps)
            for seed in range(seeds or contender["seeds"]):
                evaluation = {key: settings[key] for key in _EVALUATION} | {"evaluate_in": settings.get("evaluate_in")}
                evaluation["undiscounted"] = suite.get("undiscounted") or None
                runs.append(
                    Run(suite["name"], env, label, contender["algo"], seed, timesteps, hyperparams=hyperparams, **evaluation)
                )
    if not runs:
        raise ValueError(f"No contender among {', '.join(labels)} runs on {', '.join(envs)} in suite {suite['name']}.")
    return sorted(runs, key=lambda run: run.seed)


def resolve_hyperparams(algo: str, env: str, overrides: dict[str, Any], timesteps: int) -> dict[str, Any]:
    """What ``python -m sb3_ext.train`` would use, ``overrides`` merged in, after its checks."""
    if algo not in ALGOS:
        raise ValueError(_unknown("algorithm", algo, ALGOS))
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):  # rl_zoo3 prints what it reads
        manager = ExperimentManager(
            None, algo, env, log_folder="", n_timesteps=timesteps, hyperparams=copy.deepcopy(overrides), verbose=0
        )
        hyperparams, saved = manager.read_hyperparameters()
        resolved = {key: value for key, value in saved.items() if key != "n_timesteps"}
        resolved = json.loads(json.dumps(resolved))  # as it will be read back from config.json
        manager._preprocess_hyperparams(copy.deepcopy(hyperparams))  # type: ignore[no-untyped-call, unused-ignore]
    return resolved


def _merged(contender: dict[str, Any], here: dict[str, Any] | None) -> dict[str, Any]:
    here = here or {}
    hyperparams = {**(contender.get("hyperparams") or {}), **(here.get("hyperparams") or {})}
    return {**contender, **here, "hyperparams": hyperparams}


def _unknown(kind: str, given: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.4) or known[:20]
    return f"Unknown {kind} {given!r}. Closest: {', '.join(close)}."


def _check_keys(given: Any, required: Sequence[str], optional: Sequence[str], where: str) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: expected a mapping, got {given!r}.")
    for key in given:
        if key not in (*required, *optional):
            raise ValueError(f"{where}: {_unknown('key', str(key), (*required, *optional))}")
    for key in required:
        if key not in given:
            raise ValueError(f"{where}: {key!r} is missing.")


def _check_evaluation(given: dict[str, Any], where: str) -> None:
    for key in ("evaluations", "episodes"):
        if key in given:
            check_range(f"{where}: {key}", given[key], 1, integer=True)
    if "actions" in given:
        if not isinstance(given["actions"], list) or not given["actions"]:
            raise ValueError(f"{where}: actions must be a list of {', '.join(ACTIONS)}; got {given['actions']!r}.")
        for actions in given["actions"]:
            check_choice(f"{where}: actions", actions, ACTIONS)


def _check_evaluate_in(env: str, others: Any, where: str) -> None:
    if not isinstance(others, dict) or not all(isinstance(changes, dict) for changes in others.values()):
        raise ValueError(f"{where}: expected names, each with arguments of the environment, got {others!r}.")
    for name, changes in others.items():
        try:
            gym.make(env, **changes).close()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {name}: {error}") from error


def _check_suite(suite: dict[str, Any], where: str) -> None:
    _check_keys(suite, ("description", *_EVALUATION, "environments", "contenders"), ("undiscounted",), where)
    if suite.get("undiscounted") not in (None, True, False):
        raise ValueError(f"{where}: undiscounted must be true or false, got {suite['undiscounted']!r}.")
    _check_evaluation(suite, where)
    for label, contender in suite["contenders"].items():
        _check_keys(contender, ("algo", "seeds"), ("hyperparams",), f"{where}: {label}")
        check_range(f"{where}: seeds of {label}", contender["seeds"], 1, integer=True)
        if "/" in label or label.startswith("."):
            raise ValueError(f"{where}: the label {label!r} names a folder and cannot have a slash or begin with a dot.")
    for env, settings in suite["environments"].items():
        if env not in gym.registry and not is_atari(env):  # those are asked for when they are to run
            raise ValueError(f"{where}: {_unknown('environment', env, gym.registry)}")
        _check_keys(settings, ("timesteps",), (*_EVALUATION, "contenders", "evaluate_in"), f"{where}: {env}")
        check_range(f"{where}: timesteps of {env}", settings["timesteps"], 1, integer=True)
        _check_evaluation(settings, f"{where}: {env}")
        _check_evaluate_in(env, settings.get("evaluate_in", {}), f"{where}: {env}: evaluate_in")
        for label, here in settings.get("contenders", {}).items():
            if label not in suite["contenders"]:
                raise ValueError(f"{where}: {env}: {_unknown('contender', label, suite['contenders'])}")
            _check_keys(here or {}, (), ("seeds", "hyperparams"), f"{where}: {env}: {label}")
            check_range(f"{where}: {env}: seeds of {label}", (here or {}).get("seeds", 1), 1, integer=True)
