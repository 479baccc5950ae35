"""What LIRPG and CLN, the two algorithms that learn a reward by a meta-gradient, have in common."""

from sb3_ext.learned_reward.extrinsic_critic import ExtrinsicCritic
from sb3_ext.learned_reward.frozen_reward import FrozenReward
from sb3_ext.learned_reward.reward_network import RewardNetwork

__all__ = ["ExtrinsicCritic", "FrozenReward", "RewardNetwork"]
