"""IntrinsicPPO with every space and every reward."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.intrinsic_ppo_toys import DICT, IMAGE, Place, assert_same, place_model, state_of, walks
from helpers.memory import Memory
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import INTRINSIC_REWARDS
from sb3_ext import IntrinsicPPO

# Arguments with which a reward fits a short run; one that needs none need not be here.
QUICK = {
    "allo": dict(n_rewards=1, gradient_steps=10, hidden_sizes=(16,), n_walks=4),
    "laplacian": dict(n_rewards=1),
    "random": dict(n_rewards=1, hidden_sizes=(16,)),
}


@pytest.fixture(autouse=True)
def place_by_name(monkeypatch):
    monkeypatch.setitem(INTRINSIC_REWARDS, "place", Place)


# ---------------------------------------------------------------------- an SB3 algorithm

OBSERVATIONS = {
    "box": ("MlpPolicy", spaces.Box(-10, 10, (2, 2))),
    "discrete": ("MlpPolicy", spaces.Discrete(2)),
    "image": ("CnnPolicy", IMAGE),
    "dict": ("MultiInputPolicy", DICT),
}
ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))]


@pytest.mark.parametrize("observations", OBSERVATIONS)
@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda space: type(space).__name__)
def test_every_space_learns_saves_and_loads(observations, action_space, tmp_path):
    policy, observation_space = OBSERVATIONS[observations]
    if observations != "box" and not isinstance(action_space, (spaces.Discrete, spaces.Box)):
        pytest.skip("observations and actions do not meet in the code")
    make = lambda n: walks(n, observation_space=observation_space, action_space=action_space)  # noqa: E731
    model = place_model(make(2), policy).learn(128)
    batch = model.intrinsic_reward.batches[0]
    assert batch.actions.shape == (32, 2, *action_space.shape)
    if isinstance(action_space, spaces.Box):
        assert batch.actions.abs().max() <= 1  # as the environment was given them
    model.save(tmp_path / "model")
    loaded = IntrinsicPPO.load(tmp_path / "model", env=make(3))
    assert_same(state_of(model), state_of(loaded))
    assert loaded.intrinsic_reward.steps == 128 and torch.equal(model.intrinsic_return.std, loaded.intrinsic_return.std)
    observation = make(2).reset()
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )
    loaded.learn(96, reset_num_timesteps=False)
    assert loaded.num_timesteps == 128 + 96 and loaded.intrinsic_reward.steps == 128 + 96


def box(*shape, dtype=np.float32):
    return spaces.Box(0, 255, shape, dtype)


PPO_TAKES = {
    "matrix": ("MlpPolicy", box(3, 2)),
    "float64": ("MlpPolicy", box(3, dtype=np.float64)),
    "integers": ("MlpPolicy", box(3, dtype=np.int64)),
    "bytes": ("MlpPolicy", box(30, dtype=np.uint8)),
    "discrete": ("MlpPolicy", spaces.Discrete(5)),
    "multi-discrete": ("MlpPolicy", spaces.MultiDiscrete([2, 3])),
    "multi-binary": ("MlpPolicy", spaces.MultiBinary((2, 3))),
    "image, channels last": ("CnnPolicy", box(40, 44, 3, dtype=np.uint8)),
    "image, channels first": ("CnnPolicy", box(3, 40, 44, dtype=np.uint8)),
    "image, grey": ("CnnPolicy", box(40, 44, 1, dtype=np.uint8)),
    "image, flattened": ("MlpPolicy", box(40, 44, 3, dtype=np.uint8)),
    "image, small": ("MlpPolicy", box(7, 7, 3, dtype=np.uint8)),
    "dict": (
        "MultiInputPolicy",
        spaces.Dict(
            place=box(2, 2),
            room=spaces.Discrete(3),
            digits=spaces.MultiDiscrete([2, 3]),
            lamps=spaces.MultiBinary(2),
            eye=box(40, 44, 3, dtype=np.uint8),
        ),
    ),
}


class Sampled(gym.Env):
    """Observations are samples of their space; an episode has 7 steps."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.elapsed = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.elapsed += 1
        return self.observation_space.sample(), 0.0, self.elapsed == 7, False, {}


@pytest.mark.parametrize("reward", ["rnd", "count", "pseudo_counts"])
@pytest.mark.parametrize("observations", PPO_TAKES)
def test_a_reward_takes_every_observation_space_that_ppo_takes(observations, reward):
    policy, observation_space = PPO_TAKES[observations]
    env = DummyVecEnv([lambda: Monitor(Sampled(observation_space, spaces.Discrete(3)))] * 2)
    settings = dict(n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    if reward == "rnd":
        PPO(policy, env, **settings).learn(32)
    model = IntrinsicPPO(policy, env, intrinsic_reward=reward, **settings).learn(64)
    assert np.isfinite(model.rollout_buffer.intrinsic_returns).all() and model.rollout_buffer.intrinsic_returns.any()


@pytest.mark.parametrize("reward", ["rnd", "count", "pseudo_counts"])
@pytest.mark.parametrize("action_space", [*ACTIONS, spaces.Box(-1, 1, (2, 2))], ids=str)
def test_a_reward_takes_every_action_space_that_ppo_takes(action_space, reward):
    env = DummyVecEnv([lambda: Monitor(Sampled(box(3), action_space))] * 2)
    IntrinsicPPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, intrinsic_reward=reward).learn(64)


@pytest.mark.parametrize("name", [name for name in INTRINSIC_REWARDS if name != "place"])
def test_every_reward_trains_it(name, tmp_path):
    env = DummyVecEnv([lambda: Monitor(gym.make("sparse/Maze1-v0"))] * 2)
    memory = Memory()
    model = IntrinsicPPO(
        "MlpPolicy", env, intrinsic_reward=name, intrinsic_reward_kwargs=QUICK.get(name), n_steps=256, n_epochs=1, seed=0
    )
    model.set_logger(Logger(None, [memory]))
    model.learn(4000 if name == "allo" else 600)  # a tenth of it for the walks of ALLO
    assert not model.intrinsic_reward.needs_fit
    assert all(np.isfinite(value) for logged in memory.written for value in logged.values() if isinstance(value, float))
    model.save(tmp_path / "model")
    loaded = IntrinsicPPO.load(tmp_path / "model", env=env)
    state = model.intrinsic_reward.state_dict()
    loaded_state = loaded.intrinsic_reward.state_dict()
    assert all(torch.equal(value, loaded_state[key]) for key, value in state.items() if isinstance(value, torch.Tensor))
    loaded.learn(512, reset_num_timesteps=False)
