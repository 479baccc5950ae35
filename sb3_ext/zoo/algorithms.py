"""Registry of the algorithms of the command line: one entry holds all that the zoo knows of an algorithm.

To add an algorithm, write its folder, add its entry to the list at the end of this file (or call :func:`register_algorithm`
from a module of your own) and write its YAML file. ``--algo NAME``, the hyperparameter files, the benchmark's suites and the
hyperparameter search then know it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rl_zoo3.utils import ALGOS
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext.cln import CLN
from sb3_ext.hrl import HRL
from sb3_ext.intrinsic import IntrinsicPPO
from sb3_ext.irpo import IRPO
from sb3_ext.lirpg import LIRPG, LIRPGA2C
from sb3_ext.meta import MAMLTRPO, MetaGradientReward, MetaReward
from sb3_ext.zoo.lifetime_families import make_lifetimes, make_trials
from sb3_ext.zoo.paper_irpo import PaperIRPO

HYPERPARAMS = Path(__file__).parent / "hyperparams"


@dataclass(frozen=True)
class AlgorithmEntry:
    """What the command line knows of an algorithm.

    Args:
        name: value of ``--algo``, and name of the algorithm in suites and log folders.
        algorithm_class: the Stable-Baselines3 algorithm that is trained.
        schedules: constructor arguments that YAML may give as ``lin_…``, a schedule that falls linearly to 0, beside
            ``learning_rate``, ``clip_range``, ``clip_range_vf`` and ``delta_std``, which rl_zoo3 knows.
        make_family_env: for an algorithm that learns from families of tasks (ids ``lifetime/…``): a function
            ``(env_id, n_envs, *, seed, **env_kwargs)`` that returns its ``VecEnv``. None for one that learns in single
            environments; its YAML file then serves no family, and with other settings it gets lifetimes.
        hyperparams: its YAML file; None: ``sb3_ext/zoo/hyperparams/<name>.yml``.
    """

    name: str
    algorithm_class: type[BaseAlgorithm]
    schedules: frozenset[str] = frozenset()
    make_family_env: Callable[..., VecEnv] | None = None
    hyperparams: Path | None = None

    @property
    def hyperparams_file(self) -> Path:
        """The YAML file with hyperparameters by environment id."""
        return self.hyperparams or HYPERPARAMS / f"{self.name}.yml"

    @property
    def learns_from_families(self) -> bool:
        """Whether the algorithm learns from families of tasks, and not in a single environment."""
        return self.make_family_env is not None

    def make_training_env(self, env_id: str, n_envs: int, seed: int | None, env_kwargs: dict[str, Any]) -> VecEnv:
        """Return the environment of a family of tasks in which the algorithm is trained.

        Args:
            env_id: an id ``lifetime/…``.
            n_envs: number of parallel lifetimes or trials.
            seed: seed of tasks and environments.
            env_kwargs: arguments of the environment.
        """
        make = self.make_family_env or make_lifetimes
        return make(env_id, n_envs, seed=seed, **env_kwargs)

    def make_evaluation_env(self, env_id: str, n_envs: int, seed: int | None, env_kwargs: dict[str, Any]) -> VecEnv:
        """Return the environment of the family's test split in which a trained model is evaluated.

        Its objective is the number of successes, since the shaped objective is scaled by what training has seen, and every
        lifetime has a task of its own, since groups that share a task serve learning.

        Args:
            env_id: an id ``lifetime/…``.
            n_envs: number of parallel lifetimes or trials.
            seed: seed of tasks and environments.
            env_kwargs: arguments of the training environment.
        """
        kwargs = {"split": "test", **env_kwargs, "objective": "sparse"}
        kwargs.pop("lifetimes_per_task", None)
        return self.make_training_env(env_id, n_envs, seed, kwargs)


_ENTRIES: dict[str, AlgorithmEntry] = {}


def register_algorithm(
    name: str,
    algorithm_class: type[BaseAlgorithm],
    *,
    schedules: Iterable[str] = (),
    make_family_env: Callable[..., VecEnv] | None = None,
    hyperparams: Path | None = None,
) -> AlgorithmEntry:
    """Make an algorithm known to ``train``, ``enjoy`` and ``benchmark``, and return its entry.

    Args:
        name: value of ``--algo``. A name that rl_zoo3 knows replaces its algorithm.
        algorithm_class: the Stable-Baselines3 algorithm.
        schedules: see :class:`AlgorithmEntry`.
        make_family_env: see :class:`AlgorithmEntry`.
        hyperparams: see :class:`AlgorithmEntry`.

    Raises:
        ValueError: if ``name`` is registered already, for another class.
    """
    known = _ENTRIES.get(name)
    if known is not None and known.algorithm_class is not algorithm_class:
        raise ValueError(f"--algo {name} is registered already, for {known.algorithm_class.__name__}; choose another name.")
    entry = AlgorithmEntry(name, algorithm_class, frozenset(schedules), make_family_env, hyperparams)
    _ENTRIES[name] = entry
    ALGOS[name] = algorithm_class
    return entry


def registered_algorithms() -> dict[str, AlgorithmEntry]:
    """Return the registered entries by name."""
    return dict(_ENTRIES)


def find_algorithm(name: str) -> AlgorithmEntry:
    """Return the entry of a name.

    An algorithm that only rl_zoo3 knows, such as ``ppo``, has an entry without schedules of its own.

    Args:
        name: value of ``--algo``.

    Raises:
        KeyError: if neither this registry nor rl_zoo3 has the name.
    """
    return _ENTRIES[name] if name in _ENTRIES else AlgorithmEntry(name, ALGOS[name])


# The algorithms of sb3_ext, and their baselines: those of Stable-Baselines3 that differ from rl_zoo3's by name because their
# YAML file gives them a bonus (ppo_live, a2c_live) or their environment several episodes of a task (rl2).
register_algorithm("irpo", IRPO, schedules=("intrinsic_coef",))
register_algorithm("irpo_paper", PaperIRPO, schedules=("target_kl", "temperature"))
register_algorithm("hrl", HRL)
register_algorithm("intrinsic_ppo", IntrinsicPPO, schedules=("intrinsic_coef",))
register_algorithm("ppo_drnd", IntrinsicPPO, schedules=("intrinsic_coef",))
register_algorithm("cln", CLN, schedules=("reward_learning_rate",))
register_algorithm("lirpg", LIRPG, schedules=("reward_learning_rate",))
register_algorithm("lirpg_a2c", LIRPGA2C, schedules=("reward_learning_rate",))
register_algorithm("ppo_live", PPO)
register_algorithm("a2c_live", A2C)
register_algorithm("meta_reward", MetaReward, make_family_env=make_lifetimes)
register_algorithm("meta_gradient_reward", MetaGradientReward, make_family_env=make_lifetimes)
register_algorithm("rl2", RecurrentPPO, make_family_env=partial(make_trials, history=True))
register_algorithm("maml_trpo", MAMLTRPO, schedules=("target_kl",), make_family_env=partial(make_trials, history=False))
