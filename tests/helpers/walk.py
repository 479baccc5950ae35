"""A toy of any spaces, for the tests of learned rewards."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


class Walk(gym.Env):
    """A drifting point, seen through any observation space; pays ``pay`` times where it is and ends beyond 2."""

    def __init__(self, observation_space=None, action_space=None, pay=1.0):
        self.observation_space = observation_space or spaces.Box(-10, 10, (3,))
        self.action_space = action_space or spaces.Discrete(3)
        self.pay = pay

    def _see(self, space):
        if isinstance(space, spaces.Dict):
            return {name: self._see(part) for name, part in space.items()}
        if isinstance(space, spaces.Discrete):
            return int(self.x > 0)
        if space.dtype == np.uint8:
            return np.full(space.shape, 128 + 10 * np.clip(self.x, -5, 5), dtype=np.uint8)
        return np.linspace(1, 2, int(np.prod(space.shape)), dtype=space.dtype).reshape(space.shape) * space.dtype.type(self.x)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal()
        return self._see(self.observation_space), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.x += 0.5 * self.np_random.normal() + 0.1 * float(np.sum(action))
        return self._see(self.observation_space), self.pay * self.x, bool(self.x > 2), False, {}


def walks(n_envs=2, horizon=10, normalize=False, **kwargs):
    env = DummyVecEnv([lambda: Monitor(TimeLimit(Walk(**kwargs), horizon))] * n_envs)
    return VecNormalize(env) if normalize else env


def assert_same(one, other):
    assert len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
