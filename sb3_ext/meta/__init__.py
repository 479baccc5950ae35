"""Meta-learned rewards (Pappalardo, Ramele & Santos, arXiv 2407.21546) and what they are compared with: RL² and MAML-TRPO."""

from sb3_ext.meta.inner import InnerSettings
from sb3_ext.meta.lifetime_env import LifetimeVecEnv
from sb3_ext.meta.maml import MAMLTRPO
from sb3_ext.meta.maml_policy import MAMLPolicy
from sb3_ext.meta.meta_gradient_reward import MetaGradientReward
from sb3_ext.meta.meta_reward import MetaReward
from sb3_ext.meta.meta_reward_ppo import MetaRewardPPO
from sb3_ext.meta.policies import MetaRewardPolicy
from sb3_ext.meta.reward_model import RewardModel, reward_model_names
from sb3_ext.meta.trials import TrialVecEnv

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
