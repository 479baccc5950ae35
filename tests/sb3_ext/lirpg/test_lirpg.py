"""LIRPG is SB3's PPO or A2C where nothing is learned; settings and bad input; it learns a chain from its own reward."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers.learned_rewards import SIZE, make, state_of
from helpers.walk import assert_same, walks
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from irwrappers import VecIntrinsicReward
from sb3_ext import LIRPG, LIRPGA2C

BOTH = pytest.mark.parametrize("algorithm", [LIRPG, LIRPGA2C], ids=lambda algorithm: algorithm.__name__)


class Chain(gym.Env):
    """Twelve states in a row, left and right; the last one has the only reward and ends the episode."""

    observation_space, action_space = spaces.Discrete(12), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(11))
        return self.state, {}

    def step(self, action):
        self.state = min(max(self.state + 2 * int(action) - 1, 0), 11)
        return self.state, float(self.state == 11), self.state == 11, False, {}


# ---------------------------------------------------------------------- PPO and A2C where nothing is learned


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
@pytest.mark.parametrize(("algorithm", "sb3"), [(LIRPG, PPO), (LIRPGA2C, A2C)])
def test_without_a_learned_reward_it_is_sb3s_weight_for_weight(algorithm, sb3, action_space):
    env = partial(walks, action_space=action_space, normalize=True)
    settings = SIZE[algorithm] | dict(learning_rate=lambda left: 1e-3 * left, ent_coef=0.01)
    ours = algorithm("MlpPolicy", env(), seed=5, device="cpu", extrinsic_coef=1.0, intrinsic_coef=0.0, **settings).learn(256)
    theirs = sb3("MlpPolicy", env(), seed=5, device="cpu", **settings).learn(256)
    assert_same(list(theirs.policy.state_dict().values()), list(ours.policy.state_dict().values()))


@pytest.mark.parametrize(("algorithm", "sb3"), [(LIRPG, PPO), (LIRPGA2C, A2C)])
@pytest.mark.parametrize("extrinsic_coef", [0.0, 1.0])
def test_until_the_first_reward_it_is_sb3s_weight_for_weight_on_its_part_of_a_bonus(algorithm, sb3, extrinsic_coef, tmp_path):
    def env(reward_scale=0.0):
        return VecIntrinsicReward(walks(reward_scale=reward_scale), "count", intrinsic_coef=0.1)

    ours = algorithm("MlpPolicy", env(), seed=5, device="cpu", extrinsic_coef=extrinsic_coef, **SIZE[algorithm])
    reward = ours.reward_network.head.weight.detach().clone()
    ours.learn(256)
    with_bonus = VecIntrinsicReward(walks(reward_scale=0.0), "count", intrinsic_coef=0.1 * extrinsic_coef)
    theirs = sb3("MlpPolicy", with_bonus, seed=5, device="cpu", **SIZE[algorithm]).learn(256)
    assert_same(list(theirs.policy.state_dict().values()), list(ours.policy.state_dict().values()))
    assert torch.equal(ours.reward_network.head.weight, reward)
    ours.set_env(env(reward_scale=1.0))
    ours.learn(128)
    since = ours.reward_network.head.weight.detach().clone()
    assert not torch.equal(since, reward)
    ours.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=env())
    loaded.learn(128)  # there has been a reward
    assert not torch.equal(loaded.reward_network.head.weight, since)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
@pytest.mark.parametrize(
    ("algorithm", "sb3", "settings"),
    [
        (LIRPG, PPO, {}),
        (LIRPG, PPO, dict(clip_range_vf=0.2, ent_coef=0.01, target_kl=0.01, normalize_advantage=False)),
        (LIRPGA2C, A2C, dict(ent_coef=0.01)),
        (LIRPGA2C, A2C, dict(use_rms_prop=False, normalize_advantage=True, gae_lambda=0.9)),
    ],
)
def test_with_a_reward_of_0_its_own_update_is_sb3s(algorithm, sb3, settings, action_space):
    """What is summed in another order differs by rounding."""
    env = partial(walks, action_space=action_space)
    settings = SIZE[algorithm] | settings
    ours = algorithm("MlpPolicy", env(), seed=5, device="cpu", extrinsic_coef=1.0, reward_learning_rate=0.0, **settings)
    torch.nn.init.zeros_(ours.reward_network.head.weight)
    torch.nn.init.zeros_(ours.reward_network.head.bias)
    ours.learn(256)
    theirs = sb3("MlpPolicy", env(), seed=5, device="cpu", **settings).learn(256)
    assert ours.num_timesteps == theirs.num_timesteps and ours._n_updates == theirs._n_updates
    for (name, value), expected in zip(ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=2e-5, msg=name)


def test_the_environments_reward_reaches_the_policy_only_through_the_learned_one():
    fixed = dict(reward_learning_rate=0.0)
    one, same = (make(LIRPG, walks(reward_scale=scale), **fixed).learn(128).policy for scale in (0.5, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    other = make(LIRPG, walks(reward_scale=1.0), extrinsic_coef=1.0, **fixed).learn(128).policy
    assert not torch.equal(same.action_net.weight, other.action_net.weight)


# ---------------------------------------------------------------------- an SB3 algorithm


@BOTH
def test_parameters_of_one_model_fit_another(algorithm):
    one, other = make(algorithm).learn(64), make(algorithm, seed=1)
    other.set_parameters(one.get_parameters())
    assert_same(state_of(one), state_of(other))
    assert {"policy", "reward_network", "reward_optimizer", "extrinsic_critic"} <= one.get_parameters().keys()


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (LIRPG, dict(use_sde=True, sde_sample_freq=4)),
        (LIRPG, dict(clip_range_vf=0.2, target_kl=1e-6)),
        (LIRPG, dict(learning_rate=lambda left: 1e-3 * left, reward_learning_rate=lambda left: left)),
        (LIRPG, dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD), normalize_advantage=False)),
        (LIRPG, dict(reward_network_kwargs=dict(net_arch=[], squash=False), policy_kwargs=dict(net_arch=dict(pi=[], vf=[8])))),
        (LIRPGA2C, dict(use_sde=True)),
        (LIRPGA2C, dict(use_rms_prop=False, extrinsic_coef=0.0, intrinsic_coef=1.0)),
    ],
)
def test_settings_run(algorithm, settings):
    model = make(algorithm, walks(action_space=spaces.Box(-1, 1, (2,))), **settings).learn(192)
    assert all(torch.isfinite(value).all() for value in state_of(model))


def test_target_kl_stops_the_updates():
    model = make(LIRPG, target_kl=1e-9, batch_size=32, learning_rate=0.01)
    model.learn(64)  # the KL of the first minibatch is 0, that of the second is not
    assert model._n_updates == 1
    for optimizer in (model.policy.optimizer, model.reward_optimizer):
        assert {int(state["step"]) for state in optimizer.state.values()} == {1}


# ---------------------------------------------------------------------- bad input


@BOTH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(extrinsic_vf_coef=-1), "extrinsic_vf_coef must be a number in .0, inf., got -1"),
        (dict(policy_kwargs=dict(optimizer_class=torch.optim.Adagrad)), "must be Adam, .* got Adagrad"),
    ],
)
def test_wrong_arguments_are_named(algorithm, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(algorithm, **arguments)


# ---------------------------------------------------------------------- learning


def probability_of_right(model):
    """The least over the chain's states."""
    with torch.no_grad():
        return float(model.policy.get_distribution(torch.arange(11)).distribution.probs[:, 1].min())


@pytest.mark.parametrize(
    ("algorithm", "settings", "steps"),
    [
        (LIRPG, dict(n_steps=64, batch_size=64, n_epochs=10, reward_learning_rate=1e-3, learning_rate=1e-3), 4000),
        (LIRPGA2C, dict(n_steps=16, extrinsic_coef=0.0, intrinsic_coef=1.0, extrinsic_vf_coef=0.5), 8000),
    ],
)
def test_it_learns_a_chain_from_its_own_reward(algorithm, settings, steps):
    env = DummyVecEnv([lambda: TimeLimit(Chain(), 60)] * 4)
    model = make(algorithm, env, gamma=0.95, ent_coef=0.01, **settings).learn(steps)
    rewards = model.intrinsic_rewards(np.arange(11).repeat(2), np.tile([0, 1], 11)).reshape(11, 2)
    # With a reward that does not learn the policy is as likely to walk to the left.
    assert probability_of_right(model) > 0.8
    assert (rewards[:, 1] > rewards[:, 0]).all()


@BOTH
def test_the_reward_network_begins_as_the_policys_networks_do(algorithm):
    def is_orthogonal(policy_kwargs, **reward_network_kwargs):
        weight = (
            make(algorithm, policy_kwargs=policy_kwargs, reward_network_kwargs=reward_network_kwargs)
            .reward_network.hidden[-2]
            .weight
        )
        return torch.allclose(weight @ weight.T, 2 * torch.eye(len(weight)), atol=1e-5)

    assert is_orthogonal({})
    assert not is_orthogonal(dict(ortho_init=False))
    assert not is_orthogonal({}, ortho_init=False)


@pytest.mark.parametrize("algorithm", [LIRPG, LIRPGA2C])
def test_what_is_frozen_after_construction_stays(algorithm):
    model = make(algorithm)
    model.policy.mlp_extractor.requires_grad_(False)
    before = model.policy.mlp_extractor.policy_net[0].weight.clone()
    model.learn(64)
    assert torch.equal(model.policy.mlp_extractor.policy_net[0].weight, before)


def test_a_bonus_beneath_vecnormalize_leaves_the_extrinsic_reward_in_its_units():
    recorded = []
    for coef in (None, 0.0):
        env = walks() if coef is None else VecIntrinsicReward(walks(), "constant", intrinsic_coef=coef)
        model = make(LIRPG, VecNormalize(env), n_steps=64).learn(64)
        recorded.append(np.stack(model._recorder.rewards))
    np.testing.assert_allclose(recorded[0], recorded[1], rtol=1e-5)
