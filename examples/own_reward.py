"""An intrinsic reward of your own: the distance from the agent's mean position.

python examples/own_reward.py
"""

import argparse

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import IntrinsicReward, Transitions, VecIntrinsicReward
from sb3_ext.common.vec_env import make_vec_env


class Distance(IntrinsicReward):
    """Distance from the mean of all positions seen, which ``learn`` keeps.

    Args:
        observation_space: positions.
        action_space: unused.
    """

    n_rewards = 1

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.register_buffer("total", torch.zeros(observation_space.shape))  # buffers are saved and loaded
        self.register_buffer("count", torch.zeros(()))

    def compute(self, batch: Transitions):
        mean = self.total / self.count.clamp(min=1)
        return (batch.next_observations - mean).norm(dim=-1, keepdim=True)  # [T, B, 1]

    def learn(self, batch: Transitions):
        self.total += batch.next_observations[batch.mask].sum(0)
        self.count += batch.mask.sum()
        return {"states_seen": float(self.count)}


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=300_000)
given = parser.parse_args()

env = make_vec_env("sparse/Maze1-v0", n_envs=16, seed=0)
reward = Distance(env.observation_space, env.action_space)
model = PPO("MlpPolicy", VecIntrinsicReward(env, reward, intrinsic_coef=0.01), n_steps=128, batch_size=256, n_epochs=4, seed=0)
model.learn(given.timesteps)
returns, _ = evaluate_policy(
    model, make_vec_env("sparse/Maze1-v0", n_envs=16, seed=1), n_eval_episodes=100, deterministic=False
)
print(f"Success rate of 100 episodes: {returns:.0%}; the reward has seen {int(reward.count)} states")
