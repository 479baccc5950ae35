"""Environments and functions that the tests of intrinsic_rewards share."""

import copy
import functools

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import Transitions, make_intrinsic_reward

# Arguments that make a reward quick to fit; one that needs none need not be here.
WARM_UP = dict(warmup_steps=60)
WARMED_UP = ("rnd", "drnd", "icm", "disagreement", "ngu", "ride", "re3", "e3b", "pseudo_counts")
QUICK = dict.fromkeys(WARMED_UP, WARM_UP) | {
    "allo": dict(n_rewards=4, gradient_steps=10, hidden_sizes=(16,), n_walks=4),
    "random": dict(hidden_sizes=(32, 32)),
}
T, B = 12, 3


def make_env(n=2):
    return DummyVecEnv([lambda: gym.make("sparse/Maze1-v0")] * n)


def build(name, seed=0):
    torch.manual_seed(seed)
    env = make_env(1)
    if name == "concat":
        parts = ["laplacian", {"allo": QUICK["allo"]}, "laplacian"]
        return make_intrinsic_reward(parts, env.observation_space, env.action_space)
    return make_intrinsic_reward(name, env.observation_space, env.action_space, **QUICK.get(name, {}))


def fitted(name):
    reward = build(name)
    if reward.needs_fit:
        reward.fit(make_env(), 2000, seed=0)
    return reward


def random_steps(seed=0, n_steps=T, n_envs=B):
    """Uniformly random actions in Maze1, the observations before any reset."""
    return copy.deepcopy(_random_steps(seed, n_steps, n_envs))


@functools.cache
def _random_steps(seed, n_steps, n_envs):
    env, rng = make_env(n_envs), np.random.default_rng(seed)
    env.seed(seed)
    observations, steps = env.reset(), []
    for _ in range(n_steps):
        actions = rng.integers(4, size=n_envs)
        following, _, dones, infos = env.step(actions)
        last = np.stack([infos[i]["terminal_observation"] if dones[i] else following[i] for i in range(n_envs)])
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        steps.append((observations, actions, last, dones & ~truncated, truncated))
        observations = following
    return Transitions(*(torch.as_tensor(np.stack(part)) for part in zip(*steps, strict=True)))
