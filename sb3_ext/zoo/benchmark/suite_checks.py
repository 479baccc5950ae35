"""Checks of a suite's data, before any work starts: every mistake is named with what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym

from irwrappers.validation import check_choice, check_range
from sb3_ext.zoo.environments import import_environment, is_atari

ACTIONS = ("argmax", "sampled")
SETTINGS = ("tuned", "default")
EVALUATION_KEYS = ("evaluations", "episodes", "actions")
# More than anybody runs; a suite from elsewhere with a slip of the pen is an error instead of a computation without end.
LARGEST = {"seeds": 10_000, "timesteps": 10**12, "evaluations": 10_000, "episodes": 100_000}
_SUITE_KEYS = ("actions", "undiscounted", "settings", "hyperparams", "best", "search")
_ENVIRONMENT_KEYS = (
    *EVALUATION_KEYS,
    "contenders",
    "evaluate_in",
    "id",
    "env_kwargs",
    "max_episode_steps",
    "hyperparams",
    "threshold",
    "score_range",
)


def env_kwargs_of(here: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``gym.make`` that a suite gives an environment.

    Args:
        here: the environment's entry.
    """
    limit = {"max_episode_steps": here["max_episode_steps"]} if "max_episode_steps" in here else {}
    return {**here.get("env_kwargs", {}), **limit}


def unknown_name(kind: str, given: str, known: Iterable[str]) -> str:
    """Return an error message with the closest known names.

    Args:
        kind: what is named, such as ``"environment"``.
        given: the unknown name.
        known: names to choose from.
    """
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.4) or known[:20]
    return f"Unknown {kind} {given!r}. Closest: {', '.join(close)}."


def _check_keys(given: Any, required: Sequence[str], optional: Sequence[str], where: str) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: expected a mapping, got {given!r}.")
    for key in given:
        if key not in (*required, *optional):
            raise ValueError(f"{where}: {unknown_name('key', str(key), (*required, *optional))}")
    for key in required:
        if key not in given:
            raise ValueError(f"{where}: {key!r} is missing.")


def _check_evaluation(given: dict[str, Any], where: str) -> None:
    for key in ("evaluations", "episodes"):
        if key in given:
            check_range(f"{where}: {key}", given[key], 1, LARGEST[key], integer=True)
    if "actions" in given:
        if not isinstance(given["actions"], list) or not given["actions"]:
            raise ValueError(f"{where}: actions must be a list of {', '.join(ACTIONS)}; got {given['actions']!r}.")
        for actions in given["actions"]:
            check_choice(f"{where}: actions", actions, ACTIONS)


def _check_environment(env: str, settings: dict[str, Any], where: str) -> None:
    _check_keys(settings, ("timesteps",), _ENVIRONMENT_KEYS, where)
    check_range(f"{where}: timesteps", settings["timesteps"], 1, LARGEST["timesteps"], integer=True)
    try:
        env_id = import_environment(settings.get("id", env))
    except ImportError as error:
        raise ValueError(f"{where}: the module in front of the colon cannot be imported: {error}") from error
    if env_id not in gym.registry and not is_atari(env_id):  # checked when they are to run
        raise ValueError(
            f"{where}: {unknown_name('environment', env_id, gym.registry)} For one of your own give module:id, where "
            "importing the module registers the id with Gymnasium."
        )
    _check_evaluation(settings, where)
    if "max_episode_steps" in settings:
        check_range(f"{where}: max_episode_steps", settings["max_episode_steps"], 1, integer=True)
    for key in ("env_kwargs", "hyperparams"):
        if not isinstance(settings.get(key, {}), dict):
            raise ValueError(f"{where}: {key} must be a mapping, got {settings[key]!r}.")
    _check_score(settings, where)
    _check_evaluate_in(env_id, env_kwargs_of(settings), settings.get("evaluate_in", {}), f"{where}: evaluate_in")


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
    check_range(f"{where}: seeds", given.get("seeds", 1), 1, LARGEST["seeds"], integer=True)
    for label, space in given.get("spaces", {}).items():
        if label not in contenders:
            raise ValueError(f"{where}: {unknown_name('contender', label, contenders)}")
        for name, entry in space.items():
            interval = isinstance(entry, dict) and {"low", "high"} <= set(entry) <= {"low", "high", "log"}
            if not interval and not (isinstance(entry, list) and entry):
                raise ValueError(f"{where}: {label}: {name} must be a list, or low, high and log, got {entry!r}.")


def check_suite(suite: dict[str, Any], where: str) -> None:
    """Check everything in a suite but its hyperparameters.

    Args:
        suite: data of its YAML file.
        where: name of the file, for messages.

    Raises:
        ValueError: for the first mistake found.
    """
    _check_keys(suite, ("description", "evaluations", "episodes", "environments", "contenders"), _SUITE_KEYS, where)
    if suite.get("undiscounted") not in (None, True, False):
        raise ValueError(f"{where}: undiscounted must be true or false, got {suite['undiscounted']!r}.")
    _check_evaluation(suite, where)
    _check_settings(suite, where)
    _check_search(suite.get("search", {}), suite["contenders"], f"{where}: search")
    for label, contender in suite["contenders"].items():
        _check_keys(contender, ("algo", "seeds"), ("hyperparams", "settings"), f"{where}: {label}")
        check_range(f"{where}: seeds of {label}", contender["seeds"], 1, LARGEST["seeds"], integer=True)
        _check_settings(contender, f"{where}: {label}")
        if "/" in label or label.startswith("."):
            raise ValueError(f"{where}: the label {label!r} names a folder and cannot have a slash or begin with a dot.")
    for env, settings in suite["environments"].items():
        _check_environment(env, settings, f"{where}: {env}")
        for label, here in settings.get("contenders", {}).items():
            if label not in suite["contenders"]:
                raise ValueError(f"{where}: {env}: {unknown_name('contender', label, suite['contenders'])}")
            _check_keys(here or {}, (), ("seeds", "hyperparams"), f"{where}: {env}: {label}")
            check_range(f"{where}: {env}: seeds of {label}", (here or {}).get("seeds", 1), 1, LARGEST["seeds"], integer=True)
