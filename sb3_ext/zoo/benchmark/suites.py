"""Suites: YAML files that say which algorithms are compared in which environments, for how long.

A suite becomes a list of :class:`Run`. Its keys:

.. code-block:: yaml

    description: question that the suite answers
    evaluations: 40                # number of evaluations of a run, evenly spaced over its timesteps
    episodes: 100                  # number of episodes of an evaluation
    actions: [argmax, sampled]     # a row for each; default: both
    undiscounted: true             # returns are sums; default: discounted with the model's gamma
    settings: tuned                # start from the tuned YAML files; default: start from the constructors' defaults
    hyperparams: {n_envs: 8}       # for all contenders in all environments
    best: best.yml                 # hyperparameters that a search found (search.py), beside the suite's file; takes precedence
    search: {seeds: 2}             # see search.py
    environments:                  # may have their own evaluations, episodes, actions and hyperparams (for all contenders),
      sparse/Maze1-v0:             # and contenders: those that run in this environment, with their settings for it
        timesteps: 5_000_000
        evaluate_in:               # further environments to evaluate in; their rows are named "sparse/Maze1-v0, any start"
          any start: {random_start: true}
      CartPole-v1: {timesteps: 200_000, threshold: 475, score_range: [0, 500]}
      cliff:                       # a name for tables and folders
        id: CliffWalking-v1        # any Gymnasium id; module:id, where importing the module registers the id
        timesteps: 200_000
        env_kwargs: {render_mode: null}
        max_episode_steps: 200     # replaces the registered time limit, in training and evaluation
    contenders:
      irpo: {algo: irpo, seeds: 10}
      no trust region: {algo: irpo_paper, seeds: 3, hyperparams: {base_update: sgd}}
      ppo: {algo: ppo, seeds: 10, hyperparams: default}  # constructor defaults, and what the suite gives all contenders
      ppo small: {algo: ppo, seeds: 10, settings: default, hyperparams: {n_steps: 256}}

``threshold`` is the undiscounted return at which an environment counts as solved; its score is then that return instead of the
success rate. ``score_range`` gives the returns whose normalised scores are 0 and 1 (scores.py).
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rl_zoo3.utils import ALGOS

from irwrappers.validation import check_range
from sb3_ext.zoo.benchmark.suite_checks import ACTIONS, EVALUATION_KEYS, check_suite, env_kwargs_of, unknown_name
from sb3_ext.zoo.environments import require_atari
from sb3_ext.zoo.manager import CONSTRUCTOR_DEFAULTS, ExperimentManager, parse_kwargs

SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class Run:
    """Everything that determines the numbers of a run, apart from the code.

    Entries that do not apply are None, not False, since the ``config.json`` of older runs lacks them.

    Args:
        suite: name of the suite.
        env: name of the environment in the suite, in tables and folders.
        label: name of the contender.
        algo: name of the algorithm.
        seed: seed of the algorithm and its environments.
        timesteps: number of environment steps of training.
        evaluations: number of evaluations, evenly spaced, the last one at the end.
        episodes: number of episodes of an evaluation.
        actions: how the policy acts in evaluations, a list of ``"argmax"`` and ``"sampled"``.
        hyperparams: hyperparameters after all files and overrides were merged.
        evaluate_in: further environments to evaluate in: by name, the arguments that differ from training.
        undiscounted: whether the return of an evaluation is undiscounted.
        env_id: Gymnasium id, or ``module:id``, if it is not ``env``.
        defaults: whether ``hyperparams`` are added to the defaults of the constructor instead of the tuned YAML file.
    """

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
    evaluate_in: dict[str, dict[str, Any]] | None = None
    undiscounted: bool | None = None
    env_id: str | None = None
    defaults: bool | None = None

    @property
    def gym_id(self) -> str:
        """Gymnasium id of the environment."""
        return self.env_id or self.env

    def folder(self, out: Path) -> Path:
        """Return the folder with the files of the run.

        Args:
            out: folder of the benchmark.
        """
        return out / self.env.replace("/", "-").replace(":", "-") / self.label / f"seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.env} {self.label} seed {self.seed}"


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package."""
    return sorted(path.stem for path in SUITES.glob("*.yml"))


def load_suite(name: str) -> dict[str, Any]:
    """Return the data of a suite.

    Args:
        name: name of a suite of the package, or path of a YAML file.

    Raises:
        ValueError: for an unknown name, a missing file, or data that is no suite.
    """
    path = Path(name) if name.endswith((".yml", ".yaml")) else SUITES / f"{name}.yml"
    if not path.is_file():
        raise ValueError(f"There is no file {name}." if path == Path(name) else unknown_name("suite", name, suite_names()))
    suite = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(suite, dict):
        raise ValueError(f"{path.name}: expected a mapping with environments and contenders, got {type(suite).__name__}.")
    if "speed" not in suite:
        check_suite(suite, path.name)
        if "best" in suite:
            suite["best"] = load_best(path.parent / suite["best"])
    return {"name": path.stem, **suite}


def load_best(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the hyperparameters that a search found best, by environment and contender.

    Args:
        path: a file ``best.yml``.

    Raises:
        ValueError: for a missing file, or one that no search wrote.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}; python -m sb3_ext.benchmark SUITE --search N writes it.")
    best = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(best, dict) or not all(isinstance(labels, dict) for labels in best.values()):
        raise ValueError(f"{path.name}: expected environments, each with contenders and their hyperparameters.")
    return best


def plan(
    suite: dict[str, Any],
    budget: float = 1.0,
    seeds: int | None = None,
    envs: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> list[Run]:
    """Return the runs of a suite, seed by seed.

    Args:
        suite: from :func:`load_suite`.
        budget: fraction of each environment's timesteps.
        seeds: number of seeds, instead of the suite's.
        envs: only these environments; all, if empty.
        labels: only these contenders; all, if empty.

    Raises:
        ValueError: for a name that the suite does not have, an unknown algorithm, or missing or unknown hyperparameters.
        ImportError: for an Atari game without ale-py.
    """
    if seeds is not None:
        check_range("--seeds", seeds, 1, integer=True)
    runs = []
    for env, label in cases(suite, budget, envs, labels):
        best = suite.get("best", {}).get(env, {}).get(label)
        run = resolve_run(suite, env, label, budget, best)
        runs += [replace(run, seed=seed) for seed in range(seeds or _contender(suite, env, label)["seeds"])]
    return sorted(runs, key=lambda run: run.seed)


def cases(
    suite: dict[str, Any], budget: float = 1.0, envs: Sequence[str] = (), labels: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Return the pairs (environment, contender) that a suite runs.

    Args:
        suite: from :func:`load_suite`.
        budget: fraction of each environment's timesteps, which is only checked here.
        envs: only these environments; all, if empty.
        labels: only these contenders; all, if empty.

    Raises:
        ValueError: for a name that the suite does not have, or if nothing is left to run.
    """
    check_range("--budget", budget, 0, open_low=True)
    for kind, given, known in (("--env", envs, suite["environments"]), ("--algo", labels, suite["contenders"])):
        for name in given:
            if name not in known:
                raise ValueError(unknown_name(f"{kind} of suite {suite['name']}", name, known))
    found = [
        (env, label)
        for env in envs or suite["environments"]
        for label in suite["environments"][env].get("contenders", suite["contenders"])
        if not labels or label in labels
    ]
    if not found:
        raise ValueError(f"No contender among {', '.join(labels)} runs on {', '.join(envs)} in suite {suite['name']}.")
    return found


def resolve_run(suite: dict[str, Any], env: str, label: str, budget: float = 1.0, best: dict[str, Any] | None = None) -> Run:
    """Return the run of one environment and contender with seed 0.

    Args:
        suite: from :func:`load_suite`.
        env: name of the environment in the suite.
        label: name of the contender.
        budget: fraction of the environment's timesteps.
        best: hyperparameters that take precedence over those of the suite.

    Raises:
        ValueError: for an unknown algorithm, or missing or unknown hyperparameters.
        ImportError: for an Atari game without ale-py.
    """
    here = suite["environments"][env]
    settings = {"actions": list(ACTIONS), **suite, **here}
    env_id = here.get("id", env)
    require_atari(env_id)
    contender = _contender(suite, env, label)
    defaults = contender.get("settings", suite.get("settings", "tuned")) == "default"
    hyperparams = {**contender["hyperparams"], **(best or {})}
    env_kwargs = env_kwargs_of(here)
    if env_kwargs:
        hyperparams["env_kwargs"] = {**env_kwargs, **parse_kwargs(hyperparams.get("env_kwargs"))}
    timesteps = max(1, round(budget * settings["timesteps"]))
    return Run(
        suite["name"],
        env,
        label,
        contender["algo"],
        0,
        timesteps,
        **{key: settings[key] for key in EVALUATION_KEYS},
        hyperparams=resolve_hyperparams(contender["algo"], env_id, hyperparams, timesteps, defaults),
        evaluate_in=settings.get("evaluate_in"),
        undiscounted=suite.get("undiscounted") or "threshold" in here or None,
        env_id=env_id if env_id != env else None,
        defaults=defaults or None,
    )


def scoring(suite: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of :class:`sb3_ext.zoo.benchmark.scores.Scoring`, which tables and plots need beside results.

    Args:
        suite: from :func:`load_suite`.

    Returns:
        ``contenders``, their labels in the suite's order, and ``environments``, by name (those of ``evaluate_in`` included),
        with ``threshold`` and ``score_range`` where the suite gives them.
    """
    environments = {}
    for env, here in suite["environments"].items():
        known = {key: here[key] for key in ("threshold", "score_range") if key in here}
        for name in (env, *(f"{env}, {other}" for other in here.get("evaluate_in", ()))):
            environments[name] = known
    return {"contenders": list(suite["contenders"]), "environments": environments}


def resolve_hyperparams(
    algo: str, env: str, overrides: dict[str, Any], timesteps: int, defaults: bool = False
) -> dict[str, Any]:
    """Return the hyperparameters that ``python -m sb3_ext.train`` would use, with overrides, after its checks.

    Args:
        algo: name of the algorithm.
        env: Gymnasium id, or ``module:id``.
        overrides: hyperparameters that take precedence.
        timesteps: number of environment steps of training.
        defaults: start from the defaults of the constructor instead of a file; the policy is then chosen by the observation
            space, unless ``overrides`` has one.

    Raises:
        ValueError: for an unknown algorithm, or missing or unknown hyperparameters.
    """
    if algo not in ALGOS:
        raise ValueError(unknown_name("algorithm", algo, ALGOS))
    with open(os.devnull, "w") as devnull, contextlib.redirect_stdout(devnull):  # rl_zoo3 prints what it reads
        manager = ExperimentManager(
            None,
            algo,
            env,
            log_folder="",
            n_timesteps=timesteps,
            hyperparams=copy.deepcopy(overrides),
            config=CONSTRUCTOR_DEFAULTS if defaults else None,
            verbose=0,
        )
        try:
            hyperparams, saved = manager.read_hyperparameters()
        except ValueError as error:
            raise ValueError(f"{error}. With `settings: default` the suite needs no file.") from error
        resolved = {key: value for key, value in saved.items() if key != "n_timesteps"}
        resolved = json.loads(json.dumps(resolved))  # as it will be read back from config.json
        manager._preprocess_hyperparams(copy.deepcopy(hyperparams))  # raises for a key that is no argument
    return resolved


def _contender(suite: dict[str, Any], env: str, label: str) -> dict[str, Any]:
    """Return a contender's entry with its hyperparameters merged: suite, environment, contender, contender in environment."""
    here = suite["environments"][env]
    own = suite["contenders"][label]
    changed = here.get("contenders", {}).get(label) or {}
    hyperparams: dict[str, Any] = {}
    for level in (suite, here, own, changed):
        given = level.get("hyperparams") or {}
        hyperparams.update({} if given == "default" else given)
    settings = {"settings": "default"} if own.get("hyperparams") == "default" else {}
    return {**own, **settings, **changed, "hyperparams": hyperparams}
