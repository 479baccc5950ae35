"""``FrozenReward``, a learned reward for plots and other agents; and the bonus that is no part of the extrinsic return."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from irwrappers import VecIntrinsicReward
from irwrappers.plot import plot_reward, reward_values
from sb3_ext import CLN, LIRPG, LIRPGA2C, FrozenReward

SETTINGS = {
    LIRPG: dict(n_steps=64, batch_size=32, n_epochs=1),
    LIRPGA2C: dict(n_steps=32),
    CLN: dict(n_steps=64, batch_size=32, n_epochs=1, n_reward_steps=2),
}
everyone = pytest.mark.parametrize("algorithm", SETTINGS, ids=lambda algorithm: algorithm.__name__)


def trained(algorithm, env):
    return algorithm("MlpPolicy", env, seed=0, device="cpu", **SETTINGS[algorithm]).learn(128)


@everyone
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_it_is_the_reward_of_its_model_and_stays_when_the_model_goes_on(algorithm, env_id):
    env = VecNormalize(make_vec_env(env_id, n_envs=2, seed=0))
    model = trained(algorithm, env)
    seen = env.reset()
    frozen = FrozenReward(model)
    actions = np.array([env.action_space.sample() for _ in seen])
    rewards = reward_values(frozen, env.get_original_obs(), actions=actions)[:, 0]
    np.testing.assert_allclose(rewards, model.intrinsic_rewards(seen, actions), rtol=1e-5, atol=1e-6)
    original = env.get_original_obs()
    model.learn(256)
    np.testing.assert_array_equal(reward_values(frozen, original, actions=actions)[:, 0], rewards)


def test_greedy_rewards_are_those_of_the_models_own_actions():
    model = trained(CLN, make_vec_env("Pendulum-v1", n_envs=2, seed=0))
    frozen = FrozenReward(model, greedy=True)  # first of all: the policy is as training left it
    observations = model.get_env().reset()
    would, _ = model.predict(observations, deterministic=True)
    expected = model.intrinsic_rewards(observations, would)
    rewards = reward_values(frozen, observations, actions=np.zeros_like(would))[:, 0]
    np.testing.assert_allclose(rewards, expected, rtol=1e-5, atol=1e-6)


def test_it_is_plotted_and_rewards_another_agent(tmp_path):
    model = trained(LIRPG, make_vec_env("CartPole-v1", n_envs=2, seed=0))
    picture = tmp_path / "reward.png"
    plot_reward(FrozenReward(model), gym.make("CartPole-v1"), indices=(0, 2), ranges=[(-2, 2), (-0.2, 0.2)], path=picture)
    assert picture.stat().st_size > 0
    env = VecIntrinsicReward(make_vec_env("CartPole-v1", n_envs=2), FrozenReward(model), extrinsic_coef=0.0)
    PPO("MlpPolicy", env, n_steps=64, batch_size=32, device="cpu").learn(128)


def test_a_model_without_a_learned_reward_is_refused():
    with pytest.raises(ValueError, match="LIRPG, LIRPGA2C, CLN"):
        FrozenReward(PPO("MlpPolicy", "CartPole-v1", device="cpu"))


@everyone
def test_a_bonus_reaches_the_policy_and_is_no_part_of_the_extrinsic_return(algorithm):
    """A huge bonus: the policy's critic learns of it, the extrinsic advantages never do."""
    torch.manual_seed(0)
    env = VecIntrinsicReward(make_vec_env("CartPole-v1", n_envs=2, seed=0), "noise", intrinsic_coef=1e3, seed=0)
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", extrinsic_coef=1.0, **SETTINGS[algorithm])
    model.learn(64)
    extrinsic, passed_on = np.stack(model._recorder.rewards), model.rollout_buffer.rewards
    assert (extrinsic == 1).all()  # CartPole's
    assert np.abs(passed_on).max() > 100


def test_of_a_policy_that_squashes_its_actions_it_takes_the_environments_actions():
    """The reward network saw them in [-1, 1], and the environment takes them in [-2, 2]."""
    squashed = dict(use_sde=True, policy_kwargs=dict(squash_output=True))
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    model = LIRPG("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu", **squashed)
    observations = model.get_env().reset()
    actions = np.array([[0.3], [-0.8]], dtype=np.float32)
    rewards = reward_values(FrozenReward(model), observations, actions=2 * actions)[:, 0]
    np.testing.assert_allclose(rewards, model.intrinsic_rewards(observations, actions), rtol=1e-5, atol=1e-6)
