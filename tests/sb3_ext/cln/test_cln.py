"""CLN as an algorithm of SB3, and that it learns."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.learned_rewards import make
from helpers.walk import walks
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from irwrappers import VecIntrinsicReward
from sb3_ext import CLN

ALL_TERMS = ("direct", "mixed", "reward")


def test_the_policy_alone_loads_with_its_reward_network(tmp_path):
    model = make(CLN, conditioner_arch=(4,), reward_network_kwargs=dict(net_arch=[8])).learn(64)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    observation = walks(2).reset()
    np.testing.assert_array_equal(
        policy.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    assert torch.equal(policy.eta(), model.policy.eta())


@pytest.mark.parametrize(
    "settings",
    [
        dict(use_sde=True, sde_sample_freq=4, terms=ALL_TERMS),
        dict(
            clip_range_vf=0.2, target_kl=1e-6, learning_rate=lambda left: 1e-3 * left, reward_learning_rate=lambda left: left
        ),
        dict(n_reward_steps=0, eta_noise=0.0),
        dict(film=True, normalize_advantage=False, extrinsic_coef=0.5, intrinsic_coef=0.5),
        dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD), terms=("reward",)),
    ],
)
def test_settings_run(settings):
    model = make(CLN, walks(action_space=spaces.Box(-1, 1, (2,))), **settings).learn(128)
    assert all(torch.isfinite(value).all() for value in model.policy.state_dict().values())


def test_logged_returns_are_those_of_episodes_across_rollouts():
    """With a learned reward of 1 a step, intrinsic returns are lengths; extrinsic ones are the Monitor's."""
    env = walks(1, horizon=11)
    model = make(CLN, env, n_steps=16, batch_size=16, n_reward_steps=0, policy_kwargs={})
    with torch.no_grad():
        model.reward_network.head.weight.zero_()
        model.reward_network.head.bias.fill_(1.0)
    episodes = []
    for _ in range(8):
        model.ep_info_buffer = None
        model.learn(16, reset_num_timesteps=False)
        finished = [(info["r"], info["l"]) for info in model.ep_info_buffer]
        if finished:
            logged = model.logger.name_to_value
            assert (logged["cln/extrinsic_return"], logged["cln/intrinsic_return"]) == pytest.approx(
                np.mean(finished, 0), rel=1e-4
            )
        episodes += finished
    assert len(episodes) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(terms=("direct", "rewards")), "each of terms must be one of 'direct', 'mixed', 'reward'; got 'rewards'"),
        (dict(n_reward_steps=-1), "n_reward_steps must be an integer in .0, inf., got -1"),
        (dict(meta_coef=-1), "meta_coef must be a number"),
        (dict(segment_length=0), "segment_length must be an integer in .1"),
        (dict(reward_network_kwargs=dict(squash=True)), "arguments but squash, got .'squash': True."),
        (dict(policy_kwargs=dict(net_arch=dict(vf=[64]))), "a hidden layer of the actor.* has none"),
        (dict(policy_kwargs=dict(optimizer_class=torch.optim.Adagrad), terms=("mixed",)), "must be Adam, .* got Adagrad"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(CLN, **arguments)


def test_an_sb3_policy_class_is_refused():
    from stable_baselines3.ppo import MlpPolicy

    with pytest.raises(ValueError, match=r"derived from .*CLNPolicy, got ActorCriticPolicy"):
        CLN(MlpPolicy, walks())


def test_it_learns_cartpole_from_its_own_reward():
    env = DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * 4)
    settings = dict(n_steps=256, batch_size=128, n_epochs=6, learning_rate=2e-3, n_reward_steps=24)
    model = CLN("MlpPolicy", env, seed=0, device="cpu", **settings)
    model.learn(24_576)
    lengths = [info["l"] for info in model.ep_info_buffer][-20:]
    assert np.mean(lengths) > 300  # a policy that does not learn stays at 22
    # The initial reward network may reward staying alive too, but not as much as the environment: 54 for 500 steps.
    logged = model.logger.name_to_value
    assert logged["cln/intrinsic_return"] == pytest.approx(logged["cln/extrinsic_return"], rel=0.1)


def test_a_model_loaded_without_a_reset_goes_on_within_its_episodes(tmp_path):
    model = make(CLN, walks(horizon=25), n_steps=40).learn(80)
    model.save(tmp_path / "model")
    loaded = CLN.load(tmp_path / "model", env=model.get_env(), force_reset=False)
    assert loaded._ages.tolist() == model._ages.tolist() and loaded._ages.any()
    loaded.learn(80, reset_num_timesteps=False)


def test_a_saved_model_is_small_and_its_segments_lie_in_a_file_of_their_own(tmp_path):
    model = make(CLN, walks(4), n_steps=500).learn(2000)
    model.save(tmp_path / "earlier.zip")
    model.learn(8000).save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "segments")
    earlier, later = (tmp_path / name for name in ("earlier.zip", "model.zip"))
    assert later.stat().st_size == pytest.approx(earlier.stat().st_size, rel=0.02)
    loaded = CLN.load(tmp_path / "model.zip", device="cpu")
    assert len(loaded.segments) == 0 < len(model.segments)
    loaded.load_replay_buffer(tmp_path / "segments.safetensors")
    assert len(loaded.segments) == len(model.segments)
    other = make(CLN, segment_length=7)
    with pytest.raises(ValueError, match="give capacity and length as they were"):
        other.load_replay_buffer(tmp_path / "segments")
    VecIntrinsicReward(walks(), "count").save(tmp_path / "bonus.safetensors")
    with pytest.raises(ValueError, match="not written by save_replay_buffer of CLN"):
        loaded.load_replay_buffer(tmp_path / "bonus.safetensors")
