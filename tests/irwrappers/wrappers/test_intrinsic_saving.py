"""VecIntrinsicReward on disk, in logs and from the command line."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers.bonus_toys import SMALL, Line, Position, lines, maze, quick, rollout, wrapped
from helpers.commands import run
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import (
    INTRINSIC_REWARDS,
    IntrinsicRewardCallback,
    IntrinsicRewardWrapper,
    VecIntrinsicReward,
    make_intrinsic_reward,
)
from irwrappers.serialization import read_state

# Saving


def advanced(venv, **kwargs):
    """A wrapper that has learned twice and holds nothing since."""
    arguments = dict(
        intrinsic_reward_kwargs=SMALL["allo"],
        learn_every=5,
        warmup_steps=500,
        seed=2,
        intrinsic_coef="lin_0.5",
        total_timesteps=100,
    )
    env = VecIntrinsicReward(venv, "allo", **(arguments | kwargs))
    rollout(env, np.random.default_rng(0).integers(4, size=(10, venv.num_envs)))
    return env


def test_saved_and_loaded_continues_exactly(tmp_path):
    env = advanced(maze(seed=0))
    env.save(tmp_path / "reward.safetensors")
    loaded = VecIntrinsicReward.load(tmp_path / "reward.safetensors", maze(seed=0))
    pickled = pickle.loads(pickle.dumps(env))
    pickled.set_venv(maze(seed=0))
    actions = np.random.default_rng(1).integers(4, size=(12, 3))
    env.venv.seed(0)
    expected, _, _ = rollout(env, actions)
    for other in (loaded, pickled):
        other.venv.seed(0)
        np.testing.assert_array_equal(rollout(other, actions)[0], expected)
        assert other.bonus.num_steps == env.bonus.num_steps == 66 and other.num_warmup_steps == env.num_warmup_steps
    with pytest.raises(ValueError, match="has an environment already"):
        pickled.set_venv(maze())


@pytest.mark.parametrize("name", INTRINSIC_REWARDS)
def test_every_reward_is_saved_without_pickle(name, tmp_path, monkeypatch):
    arguments = dict(intrinsic_reward_kwargs=quick(name), learn_every=5, warmup_steps=200, seed=2, device="cpu")
    env = VecIntrinsicReward(maze(), name, **arguments)
    actions = np.random.default_rng(0).integers(4, size=(10, 3))
    rollout(env, actions)
    env.save(tmp_path / "file")
    for module, function in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, function, None)
    loaded = VecIntrinsicReward.load(tmp_path / "file", maze(), device="cpu")
    for wrapper in (env, loaded):
        wrapper.venv.seed(0)
        wrapper.intrinsic_reward.forget()
    np.testing.assert_array_equal(rollout(loaded, actions)[0], rollout(env, actions)[0])


def test_loading_around_another_number_of_environments(tmp_path):
    advanced(maze(3)).save(tmp_path / "file")
    loaded = VecIntrinsicReward.load(tmp_path / "file", maze(5), training=False)
    assert not loaded.training and loaded.bonus.returns.shape == (5, 1) and not loaded.bonus.returns.any()
    loaded.training = True
    assert np.isfinite(rollout(loaded, np.zeros((3, 5), dtype=int))[0]).all() and loaded.num_warmup_steps > 0


def test_arguments_have_the_names_of_the_first_version_in_files(tmp_path):
    wrapped(intrinsic_coef=0.5).save(tmp_path / "file")
    arguments = read_state(tmp_path / "file")[0]["arguments"]
    assert arguments["coef"] == [False, 0.5] and {"reward", "reward_kwargs"} < arguments.keys()
    assert not {"intrinsic_reward", "intrinsic_coef", "intrinsic_reward_kwargs"} & arguments.keys()


def test_loading_across_spaces_or_without_what_is_no_data(tmp_path):
    path = tmp_path / "file"
    advanced(maze()).save(path)
    with pytest.raises(ValueError, match=r"observation spaces.*was saved for Box\(\(4,\)"):
        VecIntrinsicReward.load(path, make_vec_env("MountainCar-v0"))
    with pytest.raises(ValueError, match=r"does not fit RandomNetworkReward"):
        VecIntrinsicReward.load(path, maze(), intrinsic_reward="random", intrinsic_reward_kwargs={"n_rewards": 1})
    with pytest.raises(ValueError, match=r"observation spaces"):
        pickle.loads(pickle.dumps(wrapped())).set_venv(maze())
    env = wrapped(intrinsic_coef=lambda progress: progress, total_timesteps=10, learn_every=1)
    rollout(env, [[1, 2]])
    env.save(path)
    with pytest.raises(ValueError, match=r"argument 'intrinsic_reward'.*Position with the same arguments"):
        VecIntrinsicReward.load(path, lines(), intrinsic_coef=1.0)
    fresh = Position(env.observation_space, env.action_space)
    with pytest.raises(ValueError, match="argument 'intrinsic_coef'"):
        VecIntrinsicReward.load(path, lines(), intrinsic_reward=fresh)
    assert VecIntrinsicReward.load(path, lines(), intrinsic_reward=fresh, intrinsic_coef=1.0).intrinsic_reward.total == 3


def test_files_that_are_not_ours(tmp_path):
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="is not a file that save"):
        VecIntrinsicReward.load(tmp_path / "pickle", maze())
    with pytest.raises(FileNotFoundError, match="no file"):
        VecIntrinsicReward.load(tmp_path / "nothing", maze())


# Logs, command line, what is not finite


def test_callback_logs_and_saves(tmp_path):
    env = VecIntrinsicReward(
        maze(2), "allo", intrinsic_reward_kwargs=SMALL["allo"], warmup_steps=500, intrinsic_coef=0.5, seed=0
    )
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, device="cpu")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(256, callback=IntrinsicRewardCallback(save_path=tmp_path / "r", save_freq=50))
    logged = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)
    assert logged["intrinsiccoef"].tolist() == [0.5] * len(logged) and np.isfinite(logged["intrinsicreward"]).all()
    assert (logged["intrinsicreturn_std"] > 0).all()
    assert VecIntrinsicReward.load(tmp_path / "r", maze(2)).bonus.num_steps == env.bonus.num_steps
    with pytest.raises(ValueError, match="found no VecIntrinsicReward"):
        PPO("MlpPolicy", maze(2), n_steps=64, batch_size=64).learn(1, callback=IntrinsicRewardCallback())
    with pytest.raises(ValueError, match="save_freq"):
        IntrinsicRewardCallback(save_freq=5)


def test_logs_are_means_since_they_were_last_read():
    env = wrapped(learn_every=2, intrinsic_coef=0.5)
    rollout(env, [[1, 1], [3, 3], [1, 1]])
    logs = env.pop_logs()
    assert logs == {"reward": pytest.approx(2.0), "coef": 0.5, "episode_return": 5.0, "loss": 1.0}
    assert env.pop_logs() == {}


def test_what_is_not_finite_is_named_with_its_environment():
    class Broken(Line):
        def observe(self):
            return np.array([np.nan if self.x == 3 else self.x], np.float32)

    env = wrapped(DummyVecEnv([Line, Broken]))
    env.reset()
    env.step([1, 2])
    with pytest.raises(ValueError, match=r"step\(\) gave for environments \[1\] is not finite.*nan"):
        env.step([1, 1])

    class Overflowing(Position):
        def compute(self, batch):
            return super().compute(batch).where(batch.actions[..., None] < 2, float("inf"))

    env = wrapped(reward=Overflowing)
    env.reset()
    with pytest.raises(ValueError, match=r"Overflowing gave environments \[0\]"):
        env.step([2, 1])


YAML = """
sparse/Maze1-v0:
  n_timesteps: 256
  policy: MlpPolicy
  n_envs: 4
  n_steps: 64
  batch_size: 64
  normalize: "dict(norm_obs=True, norm_reward=False)"
  vec_env_wrapper:
    - irwrappers.VecIntrinsicReward:
        intrinsic_reward: allo
        intrinsic_reward_kwargs: {n_rewards: 1, gradient_steps: 10, n_walks: 4}
        intrinsic_coef: lin_100.0
        total_timesteps: 256
        normalize_reward: false
  callback: irwrappers.IntrinsicRewardCallback
"""


def test_from_rl_zoo3_yaml_with_no_bonus_in_evaluation(tmp_path):
    (tmp_path / "ppo.yml").write_text(YAML)
    arguments = "--algo ppo --env sparse/Maze1-v0 -conf ppo.yml --seed 0 --eval-freq 128 --n-eval-envs 2"
    done = run("train", *arguments.split(), cwd=tmp_path)
    assert "intrinsic/" in done.stdout and "coef" in done.stdout
    results = np.load(next(tmp_path.rglob("evaluations.npz")))["results"]
    assert results.size and np.isin(results, [0, 1]).all()  # the maze's return is 0 or 1


def test_third_party_environment_in_one_line():
    env = VecIntrinsicReward(make_vec_env("MountainCar-v0", n_envs=2, seed=0), "random", intrinsic_weights=[0, 1, 0, 0, 0, 0])
    PPO("MlpPolicy", env, n_steps=32, batch_size=32, device="cpu").learn(64)
    assert env.bonus.num_steps == 64
    reward = make_intrinsic_reward("random", env.observation_space, env.action_space, n_rewards=1)
    single = IntrinsicRewardWrapper(gym.make("MountainCar-v0"), reward)
    single.reset(seed=0)
    assert single.step(1)[4]["reward_extrinsic"] == -1
