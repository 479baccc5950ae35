"""Meta-learned rewards (Pappalardo, Ramele & Santos, arXiv 2407.21546)."""

from sb3_ext.meta.inner import InnerSettings
from sb3_ext.meta.lifetimes import LifetimeVecEnv
from sb3_ext.meta.meta_reward import MetaReward
from sb3_ext.meta.policies import MetaRewardPolicy

__all__ = ["InnerSettings", "LifetimeVecEnv", "MetaReward", "MetaRewardPolicy"]
