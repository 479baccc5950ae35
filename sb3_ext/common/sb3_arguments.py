"""Arguments that algorithms pass on to the constructors of Stable-Baselines3."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from irwrappers.validation import check_range

ROLLOUT_SIZE = 2048  # transitions of a rollout, all environments together: PPO's default with one environment


def default_n_steps(n_envs: int) -> int:
    """Return the steps of each environment in a rollout of ``ROLLOUT_SIZE`` transitions."""
    return max(1, ROLLOUT_SIZE // n_envs)


def sb3_arguments(algorithm: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the ``given`` local variables of a constructor that are arguments of ``algorithm``'s constructor.

    A subclass lists PPO's arguments in its signature, for editors and for users, and passes them on unchanged:
    ``super().__init__(**sb3_arguments(PPO, locals()))``.

    Args:
        algorithm: the class of Stable-Baselines3, or another base class with arguments of that kind.
        given: ``locals()`` of the subclass's constructor.

    Raises:
        ValueError: for sizes and seeds that are no integers, which SB3 does not check.
    """
    arguments = {name: given[name] for name in inspect.signature(algorithm).parameters if name in given}
    for name, low in (("n_steps", 1), ("batch_size", 1), ("n_epochs", 1), ("seed", 0)):
        if name in arguments:
            check_range(name, arguments[name], low, integer=True, optional=True, schedule=False)
    return arguments
