from irwrappers.wrappers.callback import IntrinsicRewardCallback
from irwrappers.wrappers.single import IntrinsicRewardWrapper
from irwrappers.wrappers.vec import VecIntrinsicReward

__all__ = ["IntrinsicRewardCallback", "IntrinsicRewardWrapper", "VecIntrinsicReward"]
