"""LIRPG on a chain of states with a reward at its end: the reward that it learns, and how fast a new agent learns from it.

python examples/lirpg_chain.py
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from scipy.stats import spearmanr
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from irwrappers import VecIntrinsicReward
from sb3_ext import LIRPG, FrozenReward

LENGTH, HORIZON, GAMMA = 50, 30, 0.95


class Chain(gym.Env):
    """Chain of states with actions left, stay and right; the last state gives a reward of 1 and ends the episode.

    An episode begins in a random state.
    """

    observation_space, action_space = spaces.Discrete(LENGTH), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(LENGTH - 1))
        return self.state, {}

    def step(self, action):
        self.state = min(max(self.state + int(action) - 1, 0), LENGTH - 1)
        end = self.state == LENGTH - 1
        return self.state, float(end), end, False, {}


def chains():
    return DummyVecEnv([lambda: TimeLimit(Chain(), HORIZON)] * 4)


def optimal_advantages():
    """Return A*(s, a) ``[LENGTH - 1, 3]`` by value iteration."""
    following = np.clip(np.arange(LENGTH - 1)[:, None] + [-1, 0, 1], 0, LENGTH - 1)
    values = np.zeros(LENGTH)
    for _ in range(1000):
        q = (following == LENGTH - 1) + GAMMA * values[following]
        values[:-1] = q.max(1)
    return q - q.max(1, keepdims=True)


def learn_reward(timesteps, seed):
    """Train LIRPG on the learned reward alone.

    A large entropy coefficient makes the policy try every action, so that the reward learns about all of them; the reward
    network begins near 0, so that hardly anything of its random initialisation is left in the order of the states.
    """
    small = dict(ortho_init=False)
    settings = dict(n_steps=128, batch_size=128, gamma=GAMMA, learning_rate=1e-3, ent_coef=0.2, reward_network_kwargs=small)
    model = LIRPG("MlpPolicy", chains(), **settings, reward_learning_rate=lambda left: 2e-3 * left, seed=seed, device="cpu")
    return model.learn(timesteps)


def learned_rewards(model):
    """Return r_η(s, a) ``[LENGTH - 1, 3]``."""
    states, actions = np.meshgrid(np.arange(LENGTH - 1), np.arange(3), indexing="ij")
    return model.intrinsic_rewards(states.ravel(), actions.ravel()).reshape(states.shape)


class UntilRight(BaseCallback):
    """Stop when the policy steps to the right with a probability of 0.9, on average over the states."""

    def _on_rollout_start(self):
        with torch.no_grad():
            probabilities = self.model.policy.get_distribution(torch.arange(LENGTH - 1)).distribution.probs
        self.right = float(probabilities[:, 2].mean())

    def _on_step(self):
        return self.right < 0.9


def steps_to_learn(env, seed, at_most=40_000):
    """Return the number of steps that a new PPO takes in ``env`` until it walks to the right."""
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=32, gamma=GAMMA, learning_rate=1e-3, seed=seed, device="cpu")
    return model.learn(at_most, UntilRight()).num_timesteps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    model = learn_reward(given.timesteps, given.seed)
    rewards = learned_rewards(model)
    for action, name in enumerate(("left", "stay", "right")):
        print(
            f"{name:5} has a reward of {rewards[:, action].mean():+.2f} on average, from {rewards[:, action].min():+.2f} to",
            end=" ",
        )
        print(f"{rewards[:, action].max():+.2f}")
    print(f"Rank correlation with the optimal advantage: {spearmanr(rewards.ravel(), optimal_advantages().ravel())[0]:.2f}")
    learned = VecIntrinsicReward(chains(), FrozenReward(model), extrinsic_coef=0.0, normalize_reward=False)
    steps = {
        "the success signal alone": steps_to_learn(chains(), given.seed + 100, given.timesteps),
        "the learned reward alone": steps_to_learn(learned, given.seed + 100, given.timesteps),
    }
    for reward, count in steps.items():
        print(f"A new PPO with {reward} walks to the right after {count} steps")
