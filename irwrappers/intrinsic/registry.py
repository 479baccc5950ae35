"""Intrinsic rewards by name, so that YAML can build them.

A reward registers itself with the decorator :func:`register`, beside its class. Modules in ``irwrappers/intrinsic/`` are
imported with the package; a module of your own registers its rewards when it is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from gymnasium import spaces

from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.compose import Concat

RewardChoice = str | IntrinsicReward | Mapping[str, Mapping[str, Any]] | Sequence[Any]
RewardClass = TypeVar("RewardClass", bound=type[IntrinsicReward])

INTRINSIC_REWARDS: dict[str, type[IntrinsicReward]] = {}


def register(name: str) -> Callable[[RewardClass], RewardClass]:
    """Return a class decorator that makes an intrinsic reward available as ``name``.

    >>> from irwrappers.intrinsic import IntrinsicReward, make_intrinsic_reward, register
    >>> @register("zero")
    ... class Zero(IntrinsicReward):
    ...     n_rewards = 1
    >>> type(make_intrinsic_reward("zero", spaces.Discrete(2), spaces.Discrete(2))).__name__
    'Zero'
    >>> del INTRINSIC_REWARDS["zero"]

    Args:
        name: how ``make_intrinsic_reward`` and YAML call it.

    Raises:
        ValueError: another class has this name.
        TypeError: the decorated object is not a subclass of ``IntrinsicReward``.
    """

    def add(reward: RewardClass) -> RewardClass:
        if not (isinstance(reward, type) and issubclass(reward, IntrinsicReward)):
            raise TypeError(f"@register({name!r}) decorates a subclass of IntrinsicReward, got {reward!r}.")
        known = INTRINSIC_REWARDS.get(name)
        # A notebook that runs a cell again defines the same class once more.
        if known is not None and (known.__module__, known.__qualname__) != (reward.__module__, reward.__qualname__):
            raise ValueError(
                f"The intrinsic reward {name!r} is {known.__module__}.{known.__qualname__} already; register "
                f"{reward.__qualname__} under another name."
            )
        INTRINSIC_REWARDS[name] = reward
        return reward

    return add


def make_intrinsic_reward(
    reward: RewardChoice, observation_space: spaces.Space, action_space: spaces.Space, **kwargs: Any
) -> IntrinsicReward:
    """Build a reward from a name, or the :class:`Concat` of a list.

    Args:
        reward: a name in ``INTRINSIC_REWARDS``, an instance (returned as it is), a one-entry mapping ``{name: kwargs}``, or a
            list of these.
        observation_space: of a single environment.
        action_space: of a single environment.
        **kwargs: constructor arguments, with a name only.

    Raises:
        ValueError: for an unknown name, or arguments where none can be taken.
    """
    if isinstance(reward, str):
        if reward not in INTRINSIC_REWARDS:
            close = difflib.get_close_matches(reward, INTRINSIC_REWARDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            names = ", ".join(sorted(INTRINSIC_REWARDS))
            raise ValueError(f"Unknown intrinsic reward {reward!r}; expected one of {names}.{hint}")
        return INTRINSIC_REWARDS[reward](observation_space, action_space, **kwargs)
    if kwargs:
        raise ValueError(
            f"Arguments {sorted(kwargs)} go with a reward's name only; in a list write {{name: {{argument: value}}}}."
        )
    if isinstance(reward, IntrinsicReward):
        return reward
    if isinstance(reward, Mapping) and len(reward) == 1:
        name, arguments = next(iter(reward.items()))
        return make_intrinsic_reward(name, observation_space, action_space, **(arguments or {}))
    if isinstance(reward, Sequence) and reward:
        return Concat([make_intrinsic_reward(part, observation_space, action_space) for part in reward])
    raise ValueError(f"Expected the name of an intrinsic reward, an instance, {{name: arguments}} or a list; got {reward!r}.")
