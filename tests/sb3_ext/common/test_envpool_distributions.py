"""Initial states of EnvPool's environments have the distribution of the sources'."""

import re

import gymnasium as gym
import numpy as np
import pytest
from scipy.stats import ks_2samp

import envs

pytest.importorskip("envpool")

from helpers.envpool_envs import METAWORLD, RESAMPLED, pooled

from sb3_ext.common.envpool import _OTHER_MINIGRID

MINIGRID = [
    env_id
    for env_id in envs.CATALOGUE["MiniGrid"].horizons
    if not any(re.fullmatch(pattern, env_id.removeprefix("sparse/")) for pattern in _OTHER_MINIGRID)
]


def starts(env, n):
    """``n`` first observations of episodes, more than one for each copy."""
    return np.concatenate([np.array(env.reset()) for _ in range(-(-n // env.num_envs))])[:n]


# --- the same distribution of first states


def same_distribution(ours, source):
    """Kolmogorov-Smirnov for each coordinate that varies, at 1 % for all together; equality for the others."""
    varies = (np.ptp(ours, axis=0) > 1e-3) | (np.ptp(source, axis=0) > 1e-3)
    np.testing.assert_allclose(ours[:, ~varies].mean(0), source[:, ~varies].mean(0), atol=1e-3)
    p = [ks_2samp(ours[:, column], source[:, column]).pvalue for column in np.flatnonzero(varies)]
    return min(p, default=1.0) > 0.01 / max(len(p), 1)


def single_starts(env_id, n, **kwargs):
    single = gym.make(env_id, **kwargs)
    return np.array([single.reset(seed=seed)[0] for seed in range(n)])


@pytest.mark.parametrize(
    "env_id",
    ["delayed/HalfCheetah-v5", "delayed/Hopper-v5", "sparse/FetchReach-v0"]
    + [
        pytest.param(env_id, marks=pytest.mark.slow)
        for env_id in ("delayed/Ant-v5", "delayed/Walker2d-v5", "delayed/Humanoid-v5")
    ],
)
def test_first_states_have_the_sources_distribution(env_id):
    env = pooled(env_id, 50)
    assert same_distribution(starts(env, 400), single_starts(env_id, 400))


def test_random_starts_of_fetch_reach_have_the_sources_distribution():
    env = pooled("sparse/FetchReach-v0", 20, random_start=True)
    ours, source = starts(env, 100), single_starts("sparse/FetchReach-v0", 100, random_start=True)
    assert same_distribution(ours[:, 10:], source[:, 10:])
    env = pooled("sparse/FetchReach-v0", 2)  # once, as an option, and with a goal that neither rewards nor ends
    env.reset()
    env.set_options({"random_start": True, "ignore_goal": True})
    observations = env.reset()
    assert np.abs(observations[0, 10:13] - observations[1, 10:13]).max() > 1e-3
    for _ in range(49):
        move = np.clip((observations[:, 13:] - observations[:, 10:13]) / 0.05, -1, 1)
        observations, rewards, dones, _ = env.step(np.c_[move, [0, 0]])
        assert not rewards.any() and not dones.any()


@pytest.mark.slow
@pytest.mark.parametrize("env_id", METAWORLD)
def test_first_states_have_metaworlds_distribution(env_id):
    env = pooled(env_id, 10, **RESAMPLED)
    assert same_distribution(starts(env, 100), single_starts(env_id, 100, **RESAMPLED))


def largest_difference_of_grids(name, n):
    """The largest z-score of the difference between the frequencies of any content of any cell, over ``n`` starts each."""
    import envpool

    pool = envpool.make_gymnasium(name, num_envs=n, seed=1)
    pool.reset()
    single = gym.make(f"sparse/{name}").unwrapped
    ours, source = [], []
    for seed, state in enumerate(pool._debug_states(np.arange(n, dtype=np.int32))):
        single.reset(seed=seed)
        grid = single.minigrid.grid.encode()
        cells = np.asarray(state.grid, np.uint8).reshape(state.width, state.height, 3)
        cells = cells[: grid.shape[0], : grid.shape[1]]  # ObstructedMaze-1Dl has nine rooms and not two
        ours.append(np.r_[cells.ravel(), state.agent_pos, state.agent_dir])
        source.append(np.r_[grid.ravel(), single.minigrid.agent_pos, single.minigrid.agent_dir])
    ours, source, largest, tests = np.array(ours), np.array(source), 0.0, 1
    for value in np.unique(np.r_[ours, source]):
        a, b = (ours == value).mean(0), (source == value).mean(0)
        spread = np.sqrt((a + b) * (1 - (a + b) / 2) / n)
        largest = max(largest, np.max(np.abs(a - b) / np.maximum(spread, 1e-9)))
        tests += np.count_nonzero(spread)
    return largest, np.sqrt(2 * np.log(100 * tests))  # the bound that 1 % of all equal distributions exceed, at most


@pytest.mark.parametrize("name", ["MiniGrid-DoorKey-6x6-v0", "MiniGrid-MultiRoom-N2-S4-v0", "MiniGrid-KeyCorridorS3R2-v0"])
def test_grids_have_minigrids_distribution(name):
    largest, bound = largest_difference_of_grids(name, 200)
    assert largest < bound


@pytest.mark.slow
@pytest.mark.parametrize("env_id", MINIGRID)
def test_every_tasks_grids_have_minigrids_distribution(env_id):
    name = env_id.removeprefix("sparse/")
    largest, bound = largest_difference_of_grids(name, 500)
    assert largest < bound


@pytest.mark.parametrize("name", ["ObstructedMaze-1Dl-v0", "ObstructedMaze-2Dlh-v0", "ObstructedMaze-Full-v1"])
def test_the_refused_grids_do_differ(name):
    largest, bound = largest_difference_of_grids(f"MiniGrid-{name}", 300)
    assert largest > bound
