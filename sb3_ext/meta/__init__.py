"""Meta-learned rewards (Pappalardo, Ramele & Santos, arXiv 2407.21546) and what they are compared with, RL² and MAML-TRPO.

``lifetimes`` is the environment: agents that learn tasks from scratch, and whose rewards are its action. ``outer_learners``
learn to give these rewards, store them in a file, and train new agents with them. ``baselines`` learn to adapt to a task
without a learned reward.
"""

from sb3_ext.meta.baselines import MAMLTRPO, MAMLPolicy, TrialVecEnv
from sb3_ext.meta.lifetimes import InnerSettings, LifetimeVecEnv
from sb3_ext.meta.outer_learners import (
    MetaGradientReward,
    MetaReward,
    MetaRewardPolicy,
    MetaRewardPPO,
    RewardModel,
    reward_model_names,
)

__all__ = [
    "MAMLTRPO",
    "InnerSettings",
    "LifetimeVecEnv",
    "MAMLPolicy",
    "MetaGradientReward",
    "MetaReward",
    "MetaRewardPPO",
    "MetaRewardPolicy",
    "RewardModel",
    "TrialVecEnv",
    "reward_model_names",
]
