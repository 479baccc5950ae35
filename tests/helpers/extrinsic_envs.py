"""Environments and functions that the tests of extrinsic share."""

from functools import partial

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import envs  # noqa: F401
from irwrappers.extrinsic import (
    DelayedReward,
    EpisodicReward,
    PotentialShaping,
    SparseReward,
    SuccessSignal,
    VectorDelayedReward,
    VectorEpisodicReward,
    VectorPotentialShaping,
    VectorSparseReward,
    VectorSuccessSignal,
)

LIMIT = 9


class Chance(gym.Env):
    """Everything is sampled: observations, rewards, success (1/6 a step) and the end of the episode (1/12 a step)."""

    action_space = spaces.Discrete(2)

    def __init__(self, as_dict=False):
        place = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.as_dict = as_dict
        self.observation_space = spaces.Dict({"place": place, "cell": spaces.Discrete(5)}) if as_dict else place

    def _observation(self):
        place = self.np_random.normal(size=2).astype(np.float32)
        return {"place": place, "cell": self.np_random.integers(5)} if self.as_dict else place

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {"draw": self.np_random.random(), "nested": {"begins": True}}

    def step(self, action):
        reward, success = self.np_random.normal() + action, bool(self.np_random.random() < 1 / 6)
        info = {"is_success": success, "score": {"deep": self.np_random.normal(size=2)}, "word": "yes" if success else "no"}
        return self._observation(), reward, bool(self.np_random.random() < 1 / 12), False, info


def limited(wrap=None, as_dict=False):
    env = TimeLimit(Chance(as_dict), LIMIT)
    return env if wrap is None else wrap(env)


# --- vector forms


def potential(observation):
    """Of one observation or a batch of them."""
    if isinstance(observation, dict):
        return np.float64(observation["place"][..., 0]) * 2.0 + observation["cell"]
    return observation[..., 0] * 2.0 - observation[..., 1]


def predicate(before, action, after, reward, terminated, truncated, info):
    """Of one step or a batch of them; looks at everything."""
    low = potential(before) + action < potential(after)
    return low & (reward > -1) & np.logical_not(terminated) & (info["score"]["deep"][..., 0] < 1)


FORMS = {
    "delayed": (partial(DelayedReward, delay=4), partial(VectorDelayedReward, delay=4)),
    "episodic": (EpisodicReward, VectorEpisodicReward),
    "shaped": (partial(PotentialShaping, potential=potential), partial(VectorPotentialShaping, potential=potential)),
    "key": (partial(SparseReward, reward=3), partial(VectorSparseReward, reward=3)),
    "threshold": (partial(SparseReward, threshold=1.5), partial(VectorSparseReward, threshold=1.5)),
    "predicate": (partial(SparseReward, predicate=predicate), partial(VectorSparseReward, predicate=predicate)),
    "signal": (partial(SuccessSignal, max_episode_steps=LIMIT), partial(VectorSuccessSignal, max_episode_steps=LIMIT)),
    "stacked": (
        lambda env: EpisodicReward(SparseReward(PotentialShaping(env, potential), threshold=1.0)),
        lambda env: VectorEpisodicReward(VectorSparseReward(VectorPotentialShaping(env, potential), threshold=1.0)),
    ),
    "ending": (
        partial(SparseReward, terminate_on_success=True),
        partial(VectorSparseReward, terminate_on_success=True),
    ),
}
