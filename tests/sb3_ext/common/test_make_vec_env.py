"""``make_vec_env`` returns the fastest form of an environment, with the behaviour of SB3's."""

import csv
import json
import os

import gymnasium as gym
import numpy as np
import pytest
from helpers.vec_env_records import ROOM, assert_same_record, native_cartpole, pendulum, record, steps_of
from stable_baselines3 import PPO
from stable_baselines3.common import env_util
from stable_baselines3.common.monitor import Monitor, load_results
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import envs  # noqa: F401 (registers sparse/…)
from sb3_ext.common.vec_env import GymnasiumVecEnv, make_vec_env


def test_ppo_trains_on_native_forms():
    for env in (native_cartpole(4), GymnasiumVecEnv(gym.make_vec("sparse/Maze2-v0", num_envs=4))):
        model = PPO("MlpPolicy", VecMonitor(env), n_steps=64, batch_size=64, device="cpu").learn(512)
        assert model.num_timesteps == 512 and model.ep_info_buffer is not None


GRID = dict(layout=ROOM, random_start=True, max_episode_steps=9)


def is_native(env):
    return isinstance(env, VecMonitor) and isinstance(env.venv, GymnasiumVecEnv)


@pytest.mark.parametrize("env_id", ["sparse/Maze2-v0", "envs:sparse/Maze2-v0", gym.spec("sparse/Maze2-v0")])
def test_make_vec_env_of_a_grid_is_native_and_equals_sb3s(env_id):
    arguments = dict(n_envs=4, seed=9, start_index=2, env_kwargs=GRID, monitor_kwargs={"info_keywords": ("is_success",)})
    ours, theirs = make_vec_env(env_id, **arguments), env_util.make_vec_env("sparse/Maze2-v0", **arguments)
    assert is_native(ours) and ours.render_mode == theirs.render_mode == "rgb_array"
    assert [ours.action_space.sample() for _ in range(20)] == [theirs.action_space.sample() for _ in range(20)]
    np.testing.assert_array_equal(ours.reset(), theirs.reset())  # by make_vec_env's seed
    assert_same_record(record(ours), record(theirs))


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [
        ("CartPole-v1", {}),  # has a vector form, but one that can't take autoreset_mode
        (gym.spec("CartPole-v1"), {}),
        ("CartPole", {}),
        (pendulum, {}),
        ("sparse/Maze2-v0", {"n_envs": 1}),
        ("sparse/Maze2-v0", {"wrapper_class": gym.wrappers.TimeAwareObservation}),
        ("sparse/Maze2-v0", {"vec_env_cls": DummyVecEnv}),
        ("sparse/Maze2-v0", {"monitor_kwargs": {"allow_early_resets": False}}),
        ("sparse/Maze2-v0", {"env_kwargs": {"disable_env_checker": True}}),
        ("sparse/Maze2-v0", {"env_kwargs": {"max_episode_steps": -1}}),
        (gym.make("sparse/Maze2-v0").spec, {"n_envs": 1}),
    ],
)
def test_make_vec_env_leaves_the_rest_to_sb3(env_id, arguments):
    env = make_vec_env(env_id, **{"n_envs": 2, "seed": 0, **arguments})
    assert isinstance(env, DummyVecEnv) and all(env.env_is_wrapped(Monitor))
    assert env.render_mode == (None if callable(env_id) else "rgb_array")
    assert len(env.reset()) == env.num_envs
    env.close()


@pytest.mark.parametrize(
    ("message", "env_id", "env_kwargs"),
    [
        ("sparse", "sparse/Labyrinth-v0", {}),
        ("module_that_is_not", "module_that_is_not:sparse/Maze2-v0", {}),
        ("colour", "sparse/Maze2-v0", {"colour": 1}),
    ],
)
def test_make_vec_env_lets_gymnasium_explain_mistakes(message, env_id, env_kwargs):
    with pytest.raises((gym.error.Error, ImportError, TypeError), match=message):
        make_vec_env(env_id, n_envs=2, env_kwargs=env_kwargs)


def test_make_vec_env_with_the_same_seed_is_the_same_run():
    first, again, other = (record(make_vec_env("sparse/Maze2-v0", 3, env_kwargs=GRID), seed=seed) for seed in (1, 1, 2))
    assert_same_record(first, again)
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(steps_of(first), steps_of(other), strict=True))


def test_monitor_files_hold_every_episode_once(tmp_path):
    keywords = {"info_keywords": ("is_success",)}
    for start_index in (0, 4):
        env = make_vec_env("sparse/Maze2-v0", 4, 0, start_index, str(tmp_path), env_kwargs=GRID, monitor_kwargs=keywords)
        ends = sum(step[2].sum() for step in steps_of(record(env)))
        lines = (tmp_path / f"{start_index}.monitor.csv").read_text().splitlines()
        assert json.loads(lines[0][1:])["env_id"] == "sparse/Maze2-v0"
        rows = list(csv.DictReader(lines[1:]))
        assert len(rows) == ends and max(int(row["l"]) for row in rows) == 9
        assert all((row["is_success"] == "True") == (float(row["r"]) == 1) for row in rows)
    assert sorted(os.listdir(tmp_path)) == ["0.monitor.csv", "4.monitor.csv"]
    pytest.importorskip("pandas", reason="SB3's load_results needs pandas")
    assert len(load_results(str(tmp_path))) == 2 * ends
