from irwrappers.intrinsic.allo import ALLO
from irwrappers.intrinsic.base import IntrinsicReward, Transitions
from irwrappers.intrinsic.compose import Concat
from irwrappers.intrinsic.laplacian import ExactLaplacian
from irwrappers.intrinsic.random_network import RandomNetworkReward
from irwrappers.intrinsic.registry import INTRINSIC_REWARDS, make_intrinsic_reward
from irwrappers.intrinsic.running import RunningStd

__all__ = [
    "ALLO",
    "INTRINSIC_REWARDS",
    "Concat",
    "ExactLaplacian",
    "IntrinsicReward",
    "RandomNetworkReward",
    "RunningStd",
    "Transitions",
    "make_intrinsic_reward",
]
