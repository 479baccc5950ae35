"""The layer by which CLN's actor sees η."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.learned_rewards import make
from helpers.walk import walks
from stable_baselines3.common.callbacks import EvalCallback

from sb3_ext import CLN
from sb3_ext.cln import ConditionalLayerNorm


@pytest.mark.parametrize("film", [False, True])
def test_the_layer_is_its_formula(film):
    torch.manual_seed(0)
    layer = ConditionalLayerNorm(4, 3, film=film)
    torch.nn.init.normal_(layer.conditioner[0].weight)
    a, eta = torch.randn(5, 4), torch.randn(3)
    maps = layer.conditioner[0].weight @ eta + layer.conditioner[0].bias
    gate, shift = 1 / (1 + torch.exp(-maps[:4])), maps[4:]
    for row, result in zip(a, layer(a, eta), strict=True):
        mu, sigma = row.mean(), ((row - row.mean()) ** 2).mean().sqrt()
        expected = gate * row + shift if film else gate / sigma * (row - mu) + shift
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.gate(eta), gate)
    rows = torch.randn(5, 3)  # an η for each row
    torch.testing.assert_close(layer(a, rows), torch.cat([layer(a[i : i + 1], rows[i]) for i in range(5)]))


def test_the_layer_begins_close_to_neutral_for_every_eta():
    a = torch.randn(100, 64)
    for hidden in ((), (16,)):
        layer = ConditionalLayerNorm(64, 10, hidden)
        normalized = torch.nn.functional.layer_norm(a, (64,))
        for eta in (torch.zeros(10), torch.randn(10)):
            assert (layer(a, eta) - 0.88 * normalized).abs().mean() < 0.15


@pytest.mark.parametrize("film", [False, True])
def test_actions_depend_on_eta_and_values_do_not(film):
    arch = dict(net_arch=dict(pi=[16, 16, 8], vf=[16]))
    settings = dict(film=film, conditioner_arch=(8,), policy_kwargs=arch)
    model = make(CLN, walks(action_space=spaces.Box(-1, 1, (2,))), **settings)
    policy, observations = model.policy, torch.randn(6, 3)
    mean, value = policy.get_distribution(observations).distribution.mean, policy.predict_values(observations)
    action = model.predict(observations.numpy(), deterministic=True)[0]
    with torch.no_grad():
        model.reward_network.head.weight.add_(1.0)
    assert not torch.allclose(mean, policy.get_distribution(observations).distribution.mean)
    assert not np.allclose(action, model.predict(observations.numpy(), deterministic=True)[0])
    assert torch.equal(value, policy.predict_values(observations))


def test_collecting_is_noisy_and_predicting_is_not():
    model = make(CLN, eta_noise=1.0)
    observations = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    seen = []

    class Look(EvalCallback):
        def _on_step(self):
            seen.append(self.model.policy.get_distribution(torch.as_tensor(observations)).distribution.probs)
            self.noise = self.model.policy.collection_noise
            return True

    before = model.policy.get_distribution(torch.as_tensor(observations)).distribution.probs
    look = Look(walks(1))
    model.learn(64, look)
    assert all(torch.equal(before, probs) for probs in seen)
    assert look.noise.shape == (2, len(model.policy.eta())) and look.noise.std() > 0.8
    assert not torch.equal(look.noise[0], look.noise[1]) and model.policy.collection_noise is None
