"""One bonus out of the channels of an intrinsic reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from irwrappers import IntrinsicReward, make_intrinsic_reward
from irwrappers.intrinsic.features import FeatureDifference


def make_bonus(
    reward: Any,
    kwargs: dict[str, Any] | None,
    weights: Sequence[float] | None,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    who: str,
) -> tuple[IntrinsicReward, Tensor]:
    """The reward that ``make_intrinsic_reward`` builds and the weights ``[n_rewards]`` with which ``who`` adds its channels.

    Torch's generator is not moved: what is drawn afterwards is the same with and without the reward.

    Raises:
        ValueError: for wrong weights, for none where the channels would cancel, and for a reward built for other spaces.
    """
    with torch.random.fork_rng(devices=[]):
        made = make_intrinsic_reward(reward, observation_space, action_space, **(kwargs or {}))
    if (made.observation_space, made.action_space) != (observation_space, action_space):
        raise ValueError(
            f"The intrinsic reward was built for {made.observation_space} and {made.action_space}; {who} gives it "
            f"{observation_space} and {action_space} (original observations, images as SB3 transposes them). Build it for "
            "these, or give its name."
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
