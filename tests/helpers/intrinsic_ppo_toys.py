"""Environments and functions that the tests of intrinsic_ppo share."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import IntrinsicReward
from sb3_ext import IntrinsicPPO

SIZE = dict(n_steps=32, batch_size=16, n_epochs=2)


class Walk(gym.Env):
    """A drifting point, seen through any observation space; the reward is ``reward_scale`` times its place, 2 is the end."""

    def __init__(self, observation_space=None, action_space=None, reward_scale=1.0, nan_at=None):
        self.observation_space = observation_space or spaces.Box(-10, 10, (3,))
        self.action_space = action_space or spaces.Discrete(3)
        self.reward_scale, self.nan_at = reward_scale, nan_at

    def _see(self, space):
        if isinstance(space, spaces.Dict):
            return {name: self._see(part) for name, part in space.items()}
        if isinstance(space, spaces.Discrete):
            return int(self.x > 0)
        if space.dtype == np.uint8:
            return np.full(space.shape, 128 + 10 * np.clip(self.x, -5, 5), dtype=np.uint8)
        return np.full(space.shape, np.nan if self.elapsed == self.nan_at else self.x, dtype=space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.elapsed = self.np_random.normal(), 0
        return self._see(self.observation_space), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.x += 0.5 * self.np_random.normal() + 0.1 * float(np.sum(action))
        self.elapsed += 1
        return self._see(self.observation_space), self.reward_scale * self.x, bool(self.x > 2), False, {}


class Place(IntrinsicReward):
    """Gives the square of the first number of the next observation; counts the steps it learned from."""

    n_rewards = 1

    def __init__(self, observation_space, action_space):
        super().__init__(observation_space, action_space)
        self.register_buffer("steps", torch.zeros(()))
        self.scale = nn.Parameter(torch.rand(()))  # moves torch's generator
        self.batches = []
        self.forgotten = 0

    def compute(self, batch):
        first = batch.next_observations
        first = next(iter(first.values())) if isinstance(first, dict) else first
        first = first.float()
        return (first.flatten(2)[..., :1] if first.dim() > 2 else first[..., None]).square()

    def learn(self, batch):
        self.batches.append(batch)
        self.steps += batch.mask.sum()
        return {"steps": float(self.steps)}

    def forget(self):
        self.forgotten += 1


def walks(n_envs=2, horizon=10, normalize=False, **kwargs):
    env = DummyVecEnv([lambda: Monitor(TimeLimit(Walk(**kwargs), horizon))] * n_envs)
    return VecNormalize(env) if normalize else env


def place_model(env=None, policy="MlpPolicy", seed=0, **kwargs):
    return IntrinsicPPO(policy, env or walks(), seed=seed, **SIZE | dict(intrinsic_reward="place") | kwargs)


def state_of(model):
    tensors = {f"policy.{name}": value.clone() for name, value in model.policy.state_dict().items()}
    for index, moments in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": torch.as_tensor(value).clone() for name, value in moments.items()}
    return tensors


def assert_same(one, other):
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different, f"{len(different)} of {len(one)} tensors differ, e.g. {different[0]}"


DICT = spaces.Dict(a=spaces.Box(-10, 10, (2,)), b=spaces.Discrete(2))
IMAGE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
