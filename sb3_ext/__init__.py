from sb3_ext.cln import CLN
from sb3_ext.hrl import HRL
from sb3_ext.intrinsic import IntrinsicPPO, IntrinsicReplayBuffer
from sb3_ext.irpo import IRPO
from sb3_ext.learned_reward import FrozenReward
from sb3_ext.lirpg import LIRPG, LIRPGA2C
from sb3_ext.meta import MetaGradientReward, MetaReward, MetaRewardPPO

__all__ = [
    "CLN",
    "HRL",
    "IRPO",
    "LIRPG",
    "LIRPGA2C",
    "FrozenReward",
    "IntrinsicPPO",
    "IntrinsicReplayBuffer",
    "MetaGradientReward",
    "MetaReward",
    "MetaRewardPPO",
]
