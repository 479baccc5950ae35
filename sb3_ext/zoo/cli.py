"""The commands ``train`` and ``enjoy``: rl_zoo3's, with our algorithms, environments and hyperparameters."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import rl_zoo3.enjoy
import rl_zoo3.train
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ext.zoo.algorithms import find_algorithm
from sb3_ext.zoo.checkpoints import newest_checkpoint
from sb3_ext.zoo.environments import require_atari, without_bonus
from sb3_ext.zoo.lifetime_families import is_lifetime
from sb3_ext.zoo.manager import TRUSTED, ExperimentManager, parse_kwargs
from sb3_ext.zoo.resume import read_command


def _use_our_manager() -> None:
    for module in (rl_zoo3.train, rl_zoo3.enjoy):
        setattr(module, "ExperimentManager", ExperimentManager)  # noqa: B010 (mypy reads an assignment as a redefinition)


def _check_env() -> None:
    """Raise ImportError for an Atari game without ale-py; rl_zoo3 would suggest the closest registered id."""
    command = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    command.add_argument("--env", default="")
    require_atari(command.parse_known_args()[0].env)


def train() -> None:
    """Run ``python -m sb3_ext.train``: rl_zoo3's ``train`` with the algorithms of :mod:`sb3_ext.zoo.algorithms`.

    ``--resume FOLDER`` continues the run in a folder from its newest whole checkpoint, with the command that started it;
    arguments given beside it (``-n``, ``--save-freq``) replace those of that command. ``--ray HOST:6379|auto|local`` runs the
    lifetimes of ``--algo meta_reward`` on a Ray cluster. Hyperparameter files are data; ``--trust`` lets them hold Python, as
    rl_zoo3's do, and name classes of any module. Every other argument is rl_zoo3's. After Ctrl-C or SIGTERM the model
    is saved and the exit status is 130.

    Raises:
        ImportError: for an Atari game without ale-py.
        ValueError: for hyperparameters that the algorithm does not have, and for a folder without a checkpoint.
    """
    ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    ours.add_argument("--ray")
    ours.add_argument("--resume", type=Path)
    ours.add_argument("--trust", action="store_true")
    given, sys.argv[1:] = ours.parse_known_args()
    ExperimentManager.ray_address, ExperimentManager.resume_folder = given.ray, given.resume
    if given.trust:
        os.environ[TRUSTED] = "1"
    ExperimentManager.interruption, ExperimentManager.command = None, tuple(sys.argv[1:])
    if given.resume is not None:
        started = read_command(given.resume)
        checkpoint = newest_checkpoint(given.resume)
        sys.argv[1:] = [*started["arguments"], *sys.argv[1:], "--trained-agent", str(checkpoint)]
        ExperimentManager.ray_address = given.ray or started["ray"]
    _use_our_manager()
    _check_env()
    # Intended: training steps the vectorised form, evaluation a single environment.
    warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
    try:
        rl_zoo3.train.train()
    except ConnectionError as error:  # of a Ray cluster
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted before training began: nothing was saved.")
    if ExperimentManager.interruption is not None:
        print(ExperimentManager.interruption)
        sys.exit(130)


def enjoy() -> None:
    """Run ``python -m sb3_ext.enjoy``: rl_zoo3's ``enjoy`` for a model that :func:`train` saved.

    A model of a family of tasks (``lifetime/…``) is run on the test split, without rendering.

    Raises:
        ImportError: for an Atari game without ale-py.
    """
    _use_our_manager()
    _check_env()
    command = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    command.add_argument("--algo", default="ppo")
    algo = command.parse_known_args()[0].algo
    create, read_saved = rl_zoo3.enjoy.create_test_env, rl_zoo3.enjoy.get_saved_hyperparams

    def create_env(env_id: str, n_envs: int = 1, *args: Any, **kwargs: Any) -> VecEnv:
        if not is_lifetime(env_id):
            return without_bonus(create(env_id, n_envs, *args, **kwargs))
        env_kwargs = {name: value for name, value in kwargs["env_kwargs"].items() if name != "render_mode"}
        env = find_algorithm(algo).make_evaluation_env(env_id, n_envs, kwargs["seed"], env_kwargs)
        if kwargs["hyperparams"].get("normalize"):
            env = VecNormalize.load(str(Path(kwargs["stats_path"]) / "vecnormalize.pkl"), env)
            env.training = env.norm_reward = False
        return env

    def read_hyperparams(*args: Any, **kwargs: Any) -> tuple[dict[str, Any], str | None]:
        hyperparams, stats_path = read_saved(*args, **kwargs)
        if "env_kwargs" in hyperparams:
            hyperparams["env_kwargs"] = parse_kwargs(hyperparams["env_kwargs"])
        return hyperparams, stats_path

    setattr(rl_zoo3.enjoy, "create_test_env", create_env)  # noqa: B010
    setattr(rl_zoo3.enjoy, "get_saved_hyperparams", read_hyperparams)  # noqa: B010
    rl_zoo3.enjoy.enjoy()
