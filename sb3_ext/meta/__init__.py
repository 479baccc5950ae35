"""Meta-learned rewards (Pappalardo, Ramele & Santos, arXiv 2407.21546)."""

from sb3_ext.meta.inner import InnerSettings
from sb3_ext.meta.lifetimes import LifetimeVecEnv
from sb3_ext.meta.meta_reward import MetaReward
from sb3_ext.meta.meta_reward_ppo import MetaRewardPPO
from sb3_ext.meta.policies import MetaRewardPolicy
from sb3_ext.meta.reward_model import RewardModel, reward_model_names

__all__ = [
    "InnerSettings",
    "LifetimeVecEnv",
    "MetaReward",
    "MetaRewardPPO",
    "MetaRewardPolicy",
    "RewardModel",
    "reward_model_names",
]
