"""Arguments that algorithms pass on to the constructors of Stable-Baselines3."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

ROLLOUT_SIZE = 2048  # transitions of a rollout, all environments together: PPO's default with one environment


def default_n_steps(n_envs: int) -> int:
    """Return the steps of each environment in a rollout of ``ROLLOUT_SIZE`` transitions."""
    return max(1, ROLLOUT_SIZE // n_envs)


def sb3_arguments(algorithm: type[BaseAlgorithm], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the ``given`` local variables of a constructor that are arguments of ``algorithm``'s constructor.

    A subclass lists PPO's arguments in its signature, for editors and for users, and passes them on unchanged:
    ``super().__init__(**sb3_arguments(PPO, locals()))``.

    Args:
        algorithm: the class of Stable-Baselines3.
        given: ``locals()`` of the subclass's constructor.
    """
    names = list(inspect.signature(algorithm.__init__).parameters)[1:]
    return {name: given[name] for name in names if name in given}
