"""Environments and rewards that the tests of the reward wrappers share."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import (
    IntrinsicReward,
    VecIntrinsicReward,
)

SMALL = {"allo": dict(n_rewards=1, gradient_steps=10, hidden_sizes=(16,), n_walks=4), "random": dict(n_rewards=1)}


class Line(gym.Env):
    """Position 0, 1, 2 … in steps of the action; the reward is the position, and it ends at ``length``."""

    action_space = spaces.Discrete(3)

    def __init__(self, length=4, space=None):
        self.length = length
        self.observation_space = space or spaces.Box(-100, 100, (1,))

    def observe(self):
        if isinstance(self.observation_space, spaces.Dict):
            return {key: self.filled(part) for key, part in self.observation_space.spaces.items()}
        return self.filled(self.observation_space)

    def filled(self, space):
        return self.x if isinstance(space, spaces.Discrete) else np.full(space.shape, self.x, space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 0
        return self.observe(), {}

    def step(self, action):
        self.x += int(action)
        return self.observe(), float(self.x), self.x >= self.length, False, {}


class Position(IntrinsicReward):
    """The position that a step leads to; keeps the batches it is given."""

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.n_rewards = 1
        self.learned, self.advanced, self.forgotten = [], [], 0
        self.register_buffer("total", torch.zeros(()))

    def compute(self, batch):
        x = batch.next_observations
        x = next(iter(x.values())) if isinstance(x, dict) else x
        return x.float().flatten(2)[..., :1].clone() if x.ndim > 2 else x.float()[..., None]

    def learn(self, batch):
        self.learned.append(batch)
        self.total += self.compute(batch)[batch.mask].sum()
        return {"loss": float(len(self.learned))}

    def advance(self, batch):
        self.advanced.append(batch)

    def forget(self):
        self.forgotten += 1


class TwoChannels(Position):
    """The position, and ten times the position."""

    def __init__(self, *args):
        super().__init__(*args)
        self.n_rewards = 2

    def compute(self, batch):
        x = super().compute(batch)
        return torch.cat([x, 10 * x], -1)


def lines(n=2, limit=None, **kwargs):
    """``n`` lines in a ``DummyVecEnv``."""

    def make():
        env = Line(**kwargs)
        return Monitor(env if limit is None else TimeLimit(env, limit))

    return DummyVecEnv([make] * n)


def wrapped(venv=None, reward=Position, **kwargs):
    """A ``VecIntrinsicReward`` on the scale of the reward, around lines."""
    venv = lines() if venv is None else venv
    kwargs = dict(normalize_reward=False, seed=0, device="cpu") | kwargs
    return VecIntrinsicReward(venv, reward(venv.observation_space, venv.action_space), **kwargs)


def rollout(env, actions):
    """Rewards [T, B], dones and infos of fixed actions [T, B] from a reset."""
    env.reset()
    steps = [env.step(row) for row in np.asarray(actions)]
    return np.stack([step[1] for step in steps]), np.stack([step[2] for step in steps]), [step[3] for step in steps]


def maze(n=3, seed=0):
    return make_vec_env("sparse/Maze1-v0", n_envs=n, seed=seed)


def quick(name):
    if name in SMALL:
        return SMALL[name]
    return dict(n_rewards=1) if name == "laplacian" else {}
