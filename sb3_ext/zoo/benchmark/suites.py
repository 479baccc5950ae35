"""A suite is data: what is compared on what, for how long. Its YAML file becomes a list of :class:`Run`.

.. code-block:: yaml

    description: what is asked
    evaluations: 40                # of a run, evenly spaced over its timesteps
    episodes: 100                  # of an evaluation
    actions: [argmax, sampled]     # one row each; both, where it is left out
    undiscounted: true             # returns are sums; else, and where it is left out, discounted with the model's gamma
    settings: tuned                # hyperparameters start from the tuned YAML files; default: from the constructors' defaults
    hyperparams: {n_envs: 8}       # of all contenders everywhere
    best: best.yml                 # what a search found best (search.py), beside the suite's file; takes precedence
    search: {seeds: 2}             # see search.py
    environments:                  # may have evaluations, episodes and actions of their own, hyperparams of all contenders,
      sparse/Maze1-v0:             # and contenders: those of them that run here, with their settings here
        timesteps: 5_000_000
        evaluate_in:               # as well as in that of training; rows of the environment "sparse/Maze1-v0, any start"
          any start: {random_start: true}
      CartPole-v1: {timesteps: 200_000, threshold: 475, score_range: [0, 500]}
      cliff:                       # a name of its own, for tables and folders
        id: CliffWalking-v1        # any of Gymnasium's; module:id is registered by importing the module
        timesteps: 200_000
        env_kwargs: {render_mode: null}
        max_episode_steps: 200     # instead of the registered time limit, in training and evaluation
    contenders:
      irpo: {algo: irpo, seeds: 10}
      no trust region: {algo: irpo, seeds: 3, hyperparams: {base_update: sgd}}
      ppo: {algo: ppo, seeds: 10, hyperparams: default}  # policy, env, seed and what the suite gives everyone, nothing else
      ppo small: {algo: ppo, seeds: 10, settings: default, hyperparams: {n_steps: 256}}

``threshold`` is the undiscounted return from which a task without a success signal is solved; the score of the environment is
then that return. ``score_range`` is what 0 and 1 are in the normalised score (table.py).
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from rl_zoo3.utils import ALGOS

from irwrappers.validation import check_choice, check_range
from sb3_ext.zoo.environments import import_environment, is_atari, require_atari
from sb3_ext.zoo.manager import CONSTRUCTOR_DEFAULTS, ExperimentManager

SUITES = Path(__file__).parent / "suites"
ACTIONS = ("argmax", "sampled")
SETTINGS = ("tuned", "default")
_EVALUATION = ("evaluations", "episodes", "actions")
_SUITE_KEYS = ("actions", "undiscounted", "settings", "hyperparams", "best", "search")
_ENVIRONMENT_KEYS = (
    *_EVALUATION,
    "contenders",
    "evaluate_in",
    "id",
    "env_kwargs",
    "max_episode_steps",
    "hyperparams",
    "threshold",
    "score_range",
)


@dataclass(frozen=True)
class Run:
    """Everything that determines a run's numbers, but for the code.

    The entries with a default of None are None, not False, where they do not apply: runs from before they existed lack them.

    Args:
        suite: name of the suite.
        env: name of the environment in the suite, in tables and folders.
        label: name of the contender.
        algo: name of the algorithm.
        seed: of the algorithm and its environments.
        timesteps: environment steps of training.
        evaluations: number of evaluations, at equal distances, the last at the end.
        episodes: number of episodes of an evaluation.
        actions: how the policy acts in evaluations, of ``ACTIONS``.
        hyperparams: those of rl_zoo3's files, resolved.
        evaluate_in: further environments to evaluate in: by name, the arguments that differ from training.
        undiscounted: whether the return of an evaluation is undiscounted.
        env_id: Gymnasium's id (``module:id`` for one that a module registers), where it is not ``env``.
        defaults: whether ``hyperparams`` are added to the defaults of the constructor, and not to the tuned YAML file.
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
        """Gymnasium's id."""
        return self.env_id or self.env

    def folder(self, out: Path) -> Path:
        """Where the run keeps its files."""
        return out / self.env.replace("/", "-").replace(":", "-") / self.label / f"seed-{self.seed}"

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
        if "best" in suite:
            suite["best"] = load_best(path.parent / suite["best"])
    return {"name": path.stem, **suite}


def load_best(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The hyperparameters that a search found best, by environment and contender.

    Raises:
        ValueError: no such file, or not one that a search wrote.
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
    """The runs of a suite, the first seed of everything first.

    Args:
        suite: from :func:`load_suite`.
        budget: share of each environment's timesteps.
        seeds: instead of the suite's numbers of seeds.
        envs: only these environments; all, if empty.
        labels: only these contenders; all, if empty.

    Raises:
        ValueError: a name that the suite does not have, an unknown algorithm, missing or mistaken hyperparameters.
        ImportError: a game, and no ale-py.
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
    """The pairs of an environment and a contender that a suite runs.

    Args:
        suite: from :func:`load_suite`.
        budget: checked here, before any run is resolved.
        envs: only these environments; all, if empty.
        labels: only these contenders; all, if empty.

    Raises:
        ValueError: a name that the suite does not have, or nothing left to run.
    """
    check_range("--budget", budget, 0, open_low=True)
    for kind, given, known in (("--env", envs, suite["environments"]), ("--algo", labels, suite["contenders"])):
        for name in given:
            if name not in known:
                raise ValueError(_unknown(f"{kind} of suite {suite['name']}", name, known))
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
    """The run of one environment and contender with seed 0.

    Args:
        suite: from :func:`load_suite`.
        env: name of the environment in the suite.
        label: of the contender.
        budget: share of the environment's timesteps.
        best: hyperparameters that take precedence over those of the suite.

    Raises:
        ValueError: an unknown algorithm, missing or mistaken hyperparameters.
        ImportError: a game, and no ale-py.
    """
    here = suite["environments"][env]
    settings = {"actions": list(ACTIONS), **suite, **here}
    env_id = here.get("id", env)
    require_atari(env_id)
    contender = _contender(suite, env, label)
    defaults = contender.get("settings", suite.get("settings", "tuned")) == "default"
    hyperparams = {**contender["hyperparams"], **(best or {})}
    env_kwargs = _env_kwargs(here)
    if env_kwargs:
        own = hyperparams.get("env_kwargs") or {}
        hyperparams["env_kwargs"] = {**env_kwargs, **(eval(own) if isinstance(own, str) else own)}  # "dict(…)"
    timesteps = max(1, round(budget * settings["timesteps"]))
    return Run(
        suite["name"],
        env,
        label,
        contender["algo"],
        0,
        timesteps,
        **{key: settings[key] for key in _EVALUATION},
        hyperparams=resolve_hyperparams(contender["algo"], env_id, hyperparams, timesteps, defaults),
        evaluate_in=settings.get("evaluate_in"),
        undiscounted=suite.get("undiscounted") or "threshold" in here or None,
        env_id=env_id if env_id != env else None,
        defaults=defaults or None,
    )


def scoring(suite: dict[str, Any]) -> dict[str, Any]:
    """What tables and plots need to know of a suite beside its results.

    Returns:
        ``contenders``, their labels in the suite's order, and ``environments``, by name (also of those of ``evaluate_in``)
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
    """What ``python -m sb3_ext.train`` would use, ``overrides`` merged in, after its checks.

    Args:
        algo: name of the algorithm.
        env: Gymnasium's id, or ``module:id``.
        overrides: hyperparameters that take precedence.
        timesteps: of training.
        defaults: start from the defaults of the constructor, and not from a file; a policy that fits the observations is
            chosen if ``overrides`` has none.
    """
    if algo not in ALGOS:
        raise ValueError(_unknown("algorithm", algo, ALGOS))
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
        manager._preprocess_hyperparams(copy.deepcopy(hyperparams))  # refuses what no argument takes
    return resolved


def _contender(suite: dict[str, Any], env: str, label: str) -> dict[str, Any]:
    """A contender's entry with what its environment changes; its hyperparameters over the environment's and the suite's."""
    here = suite["environments"][env]
    own = suite["contenders"][label]
    changed = here.get("contenders", {}).get(label) or {}
    hyperparams: dict[str, Any] = {}
    for level in (suite, here, own, changed):
        given = level.get("hyperparams") or {}
        hyperparams.update({} if given == "default" else given)
    settings = {"settings": "default"} if own.get("hyperparams") == "default" else {}
    return {**own, **settings, **changed, "hyperparams": hyperparams}


def _env_kwargs(here: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``gym.make`` that a suite gives an environment."""
    limit = {"max_episode_steps": here["max_episode_steps"]} if "max_episode_steps" in here else {}
    return {**here.get("env_kwargs", {}), **limit}


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


def _check_environment(env: str, settings: dict[str, Any], where: str) -> None:
    _check_keys(settings, ("timesteps",), _ENVIRONMENT_KEYS, where)
    check_range(f"{where}: timesteps", settings["timesteps"], 1, integer=True)
    try:
        env_id = import_environment(settings.get("id", env))
    except ImportError as error:
        raise ValueError(f"{where}: the module in front of the colon cannot be imported: {error}") from error
    if env_id not in gym.registry and not is_atari(env_id):  # those are asked for when they are to run
        raise ValueError(
            f"{where}: {_unknown('environment', env_id, gym.registry)} One of your own: module:id, where importing the module "
            "registers the id with Gymnasium."
        )
    _check_evaluation(settings, where)
    if "max_episode_steps" in settings:
        check_range(f"{where}: max_episode_steps", settings["max_episode_steps"], 1, integer=True)
    for key in ("env_kwargs", "hyperparams"):
        if not isinstance(settings.get(key, {}), dict):
            raise ValueError(f"{where}: {key} must be a mapping, got {settings[key]!r}.")
    _check_score(settings, where)
    _check_evaluate_in(env_id, _env_kwargs(settings), settings.get("evaluate_in", {}), f"{where}: evaluate_in")


def _check_score(settings: dict[str, Any], where: str) -> None:
    if "threshold" in settings:
        check_range(f"{where}: threshold", settings["threshold"], float("-inf"), schedule=False)
    ends = settings.get("score_range", [0, 1])
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    if not numbers or not ends[0] < ends[1]:
        raise ValueError(f"{where}: score_range must be two numbers, the lower one first, got {ends!r}.")


def _check_evaluate_in(env_id: str, env_kwargs: dict[str, Any], others: Any, where: str) -> None:
    if not isinstance(others, dict) or not all(isinstance(changes, dict) for changes in others.values()):
        raise ValueError(f"{where}: expected names, each with arguments of the environment, got {others!r}.")
    for name, changes in others.items():
        try:
            gym.make(env_id, **{**env_kwargs, **changes}).close()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {name}: {error}") from error


def _check_settings(given: dict[str, Any], where: str) -> None:
    if "settings" in given:
        check_choice(f"{where}: settings", given["settings"], SETTINGS)
    hyperparams = given.get("hyperparams")
    if hyperparams is not None and not isinstance(hyperparams, dict) and hyperparams != "default":
        raise ValueError(f"{where}: hyperparams must be a mapping, or default, got {hyperparams!r}.")


def _check_search(given: Any, contenders: dict[str, Any], where: str) -> None:
    _check_keys(given, (), ("seeds", "spaces"), where)
    check_range(f"{where}: seeds", given.get("seeds", 1), 1, integer=True)
    for label, space in given.get("spaces", {}).items():
        if label not in contenders:
            raise ValueError(f"{where}: {_unknown('contender', label, contenders)}")
        for name, entry in space.items():
            interval = isinstance(entry, dict) and {"low", "high"} <= set(entry) <= {"low", "high", "log"}
            if not interval and not (isinstance(entry, list) and entry):
                raise ValueError(f"{where}: {label}: {name} must be a list, or low, high and log, got {entry!r}.")


def _check_suite(suite: dict[str, Any], where: str) -> None:
    _check_keys(suite, ("description", "evaluations", "episodes", "environments", "contenders"), _SUITE_KEYS, where)
    if suite.get("undiscounted") not in (None, True, False):
        raise ValueError(f"{where}: undiscounted must be true or false, got {suite['undiscounted']!r}.")
    _check_evaluation(suite, where)
    _check_settings(suite, where)
    _check_search(suite.get("search", {}), suite["contenders"], f"{where}: search")
    for label, contender in suite["contenders"].items():
        _check_keys(contender, ("algo", "seeds"), ("hyperparams", "settings"), f"{where}: {label}")
        check_range(f"{where}: seeds of {label}", contender["seeds"], 1, integer=True)
        _check_settings(contender, f"{where}: {label}")
        if "/" in label or label.startswith("."):
            raise ValueError(f"{where}: the label {label!r} names a folder and cannot have a slash or begin with a dot.")
    for env, settings in suite["environments"].items():
        _check_environment(env, settings, f"{where}: {env}")
        for label, here in settings.get("contenders", {}).items():
            if label not in suite["contenders"]:
                raise ValueError(f"{where}: {env}: {_unknown('contender', label, suite['contenders'])}")
            _check_keys(here or {}, (), ("seeds", "hyperparams"), f"{where}: {env}: {label}")
            check_range(f"{where}: {env}: seeds of {label}", (here or {}).get("seeds", 1), 1, integer=True)
