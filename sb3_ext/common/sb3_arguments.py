"""Arguments that our algorithms hand on to those of Stable-Baselines3."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

ROLLOUT_SIZE = 2048  # transitions of a rollout, all environments together: PPO's, which was meant for one environment


def default_n_steps(n_envs: int) -> int:
    """Return the steps of each environment in a rollout of ``ROLLOUT_SIZE`` transitions."""
    return max(1, ROLLOUT_SIZE // n_envs)


def sb3_arguments(algorithm: type[BaseAlgorithm], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the ``given`` local variables of a constructor that ``algorithm``'s own constructor takes.

    A subclass spells PPO's arguments out in its signature, for editors and for users, and hands them on unchanged:
    ``super().__init__(**sb3_arguments(PPO, locals()))``.
    """
    names = list(inspect.signature(algorithm.__init__).parameters)[1:]
    return {name: given[name] for name in names if name in given}
