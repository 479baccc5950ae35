"""Environments and functions that the tests of vec_env share."""

import warnings

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext.common.vec_env import GymnasiumVecEnv

ROOM = ["######", "#S   #", "#   G#", "######"]  # small: random walks reach the goal and the time limit


def pendulum():
    return gym.make("Pendulum-v1", max_episode_steps=5)


def without_time(info):
    """An info dict less the clock reading in Monitor's record of the episode."""
    if "episode" in info:
        info = {**info, "episode": {key: value for key, value in info["episode"].items() if key != "t"}}
    return info


def record(env, steps=60, seed=3):
    """All that a user of an SB3 VecEnv sees, in a run with a seeded and an unseeded reset. Kept, not copied."""
    rng = np.random.default_rng(0)
    env.seed(seed)
    seen = [("reset", env.reset(), env.reset_infos[:])]
    for step in range(steps):
        if step == steps // 2:
            seen.append(("reset", env.reset(), env.reset_infos[:]))
        if isinstance(env.action_space, spaces.Discrete):
            actions = rng.integers(env.action_space.n, size=env.num_envs)
        else:
            actions = rng.uniform(-1, 1, (env.num_envs, *env.action_space.shape)).astype(np.float32)
        observations, rewards, dones, infos = env.step(actions)
        assert rewards.dtype == np.float32 and dones.dtype == bool
        assert all(type(info["TimeLimit.truncated"]) is bool for info in infos)
        seen.append((observations, rewards, dones, [without_time(info) for info in infos], env.reset_infos[:]))
    env.close()
    return seen


def steps_of(run):
    return [step for step in run if not isinstance(step[0], str)]


def dtypes(observations):
    parts = observations.values() if isinstance(observations, dict) else observations
    return [part.dtype for part in parts] if isinstance(observations, (dict, tuple)) else observations.dtype


def assert_same_record(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_equal(ours, theirs)
    assert dtypes(actual[1][0]) == dtypes(expected[1][0])
    assert sum(step[2].sum() for step in steps_of(expected)) > 5, "the comparison means nothing without ends of episodes"


def native_cartpole(n=3, steps=9):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GymnasiumVecEnv(gym.make_vec("CartPole-v1", num_envs=n, max_episode_steps=steps))
