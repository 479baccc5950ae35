"""What the agent is paid: intrinsic rewards for any environment, and wrappers of its own reward."""

from irwrappers.extrinsic import DelayedReward, VectorDelayedReward
from irwrappers.intrinsic import (
    ALLO,
    INTRINSIC_REWARDS,
    Concat,
    ExactLaplacian,
    IntrinsicReward,
    RandomNetworkReward,
    RunningStd,
    Transitions,
    make_intrinsic_reward,
)

__version__ = "0.1.0"

__all__ = [
    "ALLO",
    "INTRINSIC_REWARDS",
    "Concat",
    "DelayedReward",
    "ExactLaplacian",
    "IntrinsicReward",
    "RandomNetworkReward",
    "RunningStd",
    "Transitions",
    "VectorDelayedReward",
    "make_intrinsic_reward",
]
