"""An intrinsic reward and the weights with which its channels are added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from irwrappers import IntrinsicReward, make_intrinsic_reward
from irwrappers.intrinsic.features import FeatureDifference


def make_weighted_reward(
    reward: Any,
    kwargs: dict[str, Any] | None,
    weights: Sequence[float] | None,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    who: str,
) -> tuple[IntrinsicReward, Tensor]:
    """Return the reward that ``make_intrinsic_reward`` builds, and the weights ``[n_rewards]`` of its channels.

    Torch's generator keeps its state: later random numbers are the same with and without the reward.

    Args:
        reward: a name, an instance, ``{name: arguments}`` or a list of these.
        kwargs: arguments for a name.
        weights: one for each channel, or None for 1 each.
        observation_space: of the original observations.
        action_space: of the environment.
        who: name of the caller's class, for error messages.

    Raises:
        ValueError: for wrong weights, for none where the channels would cancel, and for a reward built for other spaces.
    """
    with torch.random.fork_rng(devices=[]):
        made = make_intrinsic_reward(reward, observation_space, action_space, **(kwargs or {}))
    if (made.observation_space, made.action_space) != (observation_space, action_space):
        raise ValueError(
            f"The intrinsic reward was built for {made.observation_space} and {made.action_space}; {who} "
            f"needs {observation_space} and {action_space} (original observations, images as SB3 transposes them). Build it "
            "for these, or give its name."
        )
    if weights is None:
        for part in made.modules():
            if isinstance(part, FeatureDifference) and part.n_rewards > 1:
                raise ValueError(
                    f"{who} adds the channels of a reward up, and those of {type(part).__name__} come in opposite pairs that "
                    f"cancel. Give weights, one for each of {', '.join(made.channel_names)}; or use IRPO, which trains a "
                    "policy for each."
                )
        weights = [1.0] * made.n_rewards
    if len(weights) != made.n_rewards:
        raise ValueError(
            f"Expected a weight for each of {', '.join(made.channel_names)}, got {len(weights)}: {list(weights)}."
        )
    return made, torch.tensor([float(weight) for weight in weights])
