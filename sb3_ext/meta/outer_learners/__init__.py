"""Outer learners: algorithms that learn, over many lifetimes, how to reward a learning agent.

``MetaReward`` (black box) and ``MetaGradientReward`` (through the agents' updates) act in a ``LifetimeVecEnv`` with a
``MetaRewardPolicy``. They save a ``RewardModel``, a file, and ``MetaRewardPPO`` is PPO with its rewards. The room
imports ``lifetimes``; ``baselines`` uses its loop of iterations.
"""

from sb3_ext.meta.outer_learners.meta_gradient_reward import MetaGradientReward
from sb3_ext.meta.outer_learners.meta_reward import MetaReward
from sb3_ext.meta.outer_learners.meta_reward_ppo import MetaRewardPPO
from sb3_ext.meta.outer_learners.policies import MetaRewardPolicy
from sb3_ext.meta.outer_learners.reward_model import RewardModel, reward_model_names

__all__ = [
    "MetaGradientReward",
    "MetaReward",
    "MetaRewardPPO",
    "MetaRewardPolicy",
    "RewardModel",
    "reward_model_names",
]
