"""Intrinsic rewards by name, so that YAML can build them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gymnasium import spaces

from irwrappers.intrinsic.allo import ALLO
from irwrappers.intrinsic.base import IntrinsicReward
from irwrappers.intrinsic.compose import Concat
from irwrappers.intrinsic.constant import ConstantReward
from irwrappers.intrinsic.counts import StateCount
from irwrappers.intrinsic.curiosity import ICM, Disagreement
from irwrappers.intrinsic.e3b import E3B
from irwrappers.intrinsic.episodic import NGU, PseudoCounts
from irwrappers.intrinsic.laplacian import ExactLaplacian
from irwrappers.intrinsic.noise import NoiseReward
from irwrappers.intrinsic.random_network import RandomNetworkReward
from irwrappers.intrinsic.re3 import RE3
from irwrappers.intrinsic.ride import RIDE
from irwrappers.intrinsic.rnd import DRND, RND

INTRINSIC_REWARDS: dict[str, Callable[..., IntrinsicReward]] = {
    "allo": ALLO,
    "laplacian": ExactLaplacian,
    "random": RandomNetworkReward,
    "noise": NoiseReward,
    "constant": ConstantReward,
    "rnd": RND,
    "drnd": DRND,
    "icm": ICM,
    "disagreement": Disagreement,
    "ngu": NGU,
    "ride": RIDE,
    "re3": RE3,
    "e3b": E3B,
    "pseudo_counts": PseudoCounts,
    "count": StateCount,
}


def make_intrinsic_reward(
    reward: str | IntrinsicReward | Mapping[str, Mapping[str, Any]] | Sequence[Any],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    **kwargs: Any,
) -> IntrinsicReward:
    """Build a reward from a name, or the :class:`Concat` of a list.

    Args:
        reward: a name in ``INTRINSIC_REWARDS``, an instance (returned as it is), a one-entry mapping ``{name: kwargs}``, or a
            list of these.
        kwargs: constructor arguments, with a name only.

    Raises:
        ValueError: for an unknown name, or arguments where none can be taken.
    """
    if isinstance(reward, str):
        if reward not in INTRINSIC_REWARDS:
            close = difflib.get_close_matches(reward, INTRINSIC_REWARDS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"Unknown intrinsic reward {reward!r}; expected one of {', '.join(INTRINSIC_REWARDS)}.{hint}")
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
