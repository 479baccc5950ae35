"""CLN's gradient in η against finite differences, and the advantages as linear functions of η."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.learned_rewards import make
from helpers.walk import walks

from sb3_ext import CLN
from sb3_ext.cln.reward_training import CHUNK_SIZE, perturbed_advantages, reward_features
from sb3_ext.common import ppo_losses
from sb3_ext.learned_reward.rollout import LearnedRewardRollout


def last_rollout(model):
    """Return the rollout that was collected last and its actions as the reward network takes them."""
    rollout = model._rollout(CHUNK_SIZE)
    return rollout, model._rewarded_actions(rollout.samples.actions)


def prepared(monkeypatch, action_space, **kwargs):
    """A model in float64 with a minibatch of its own rollout, F of its transitions and noise."""
    model = make(CLN, walks(action_space=action_space), eta_noise=0.05, ent_coef=0.01, **kwargs)
    model.learn(128)  # so that the optimiser has moments
    torch.nn.init.normal_(model.policy.mlp_extractor.norm.conditioner[0].weight, std=0.2)
    rollout, actions = last_rollout(model)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # preprocess_obs casts
    model.policy.double()
    rollout.samples = type(rollout.samples)(*(x.double() if x.is_floating_point() else x for x in rollout.samples))
    rollout.discount = rollout.discount.double()
    if actions.is_floating_point():
        actions = actions.double()
    features = reward_features(model.reward_network, rollout, actions, model.intrinsic_coef)[1]
    rows = torch.arange(0, 64, 3)
    return model, rollout.samples.rows(rows), features[rows], model._noise(len(rows))


def extrinsic_loss(model, samples, features, noise, acting, seen, rewarding):
    """−J^EX after a step of Adam on −J^IN − entropy, written out; η of the acting policy, of the step's, of the rewards."""
    policy, eta = model.policy, model.policy.eta()
    actor = policy.actor_parameters()
    if model._updates_policy:
        advantages = samples.advantages + features @ rewarding + ((features - features.mean(0)) * noise).sum(1)
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_prob, entropy = policy.evaluate_actor(samples.observations, samples.actions, seen + noise)
        ratio = torch.exp(log_prob - samples.old_log_prob)
        loss = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean() - model.ent_coef * entropy.mean()
        gradients = torch.autograd.grad(loss, list(actor.values()))
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        scale = min(1.0, model.max_grad_norm / (float(norm) + 1e-6))
        before = {name: value.detach().clone() for name, value in actor.items()}
        group = policy.optimizer.param_groups[0]
        with torch.no_grad():
            for value, gradient in zip(actor.values(), gradients, strict=True):
                state = policy.optimizer.state[value]
                step = int(state["step"]) + 1
                m = 0.9 * state["exp_avg"] + 0.1 * scale * gradient
                # The second moment carries no gradient in the meta-gradient, and its state is the same for all η here.
                v = (0.999 * state["exp_avg_sq"] + 0.001 * model.second_gradient[id(value)] ** 2) / (1 - 0.999**step)
                value.sub_(group["lr"] * m / (1 - 0.9**step) / (v.sqrt() + group["eps"]))
    extrinsic = samples.extrinsic_advantages
    extrinsic = (extrinsic - extrinsic.mean()) / (extrinsic.std() + 1e-8)
    with torch.no_grad():
        log_prob, _ = policy.evaluate_actor(samples.observations, samples.actions, acting + noise)
        ratio = torch.exp(log_prob - samples.old_log_prob)
        result = -torch.min(ratio * extrinsic, ratio.clamp(0.8, 1.2) * extrinsic).mean()
        if model._updates_policy:
            for name, value in actor.items():
                value.copy_(before[name])
    assert torch.equal(eta, policy.eta())
    return float(result)


@pytest.mark.parametrize("terms", [("direct",), ("mixed",), ("reward",), ("direct", "mixed", "reward")], ids="+".join)
@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_the_eta_gradient_of_a_minibatch_is_the_finite_difference(monkeypatch, action_space, terms):
    model, samples, features, noise = prepared(
        monkeypatch, action_space, terms=terms, reward_network_kwargs=dict(net_arch=[4])
    )
    meta = model._eta_gradient(samples, features, noise, 0.2)
    gradient, eta = meta.gradient["eta"], model.policy.eta()
    if meta.inner_gradients:  # as clipped: v is held fixed
        norm = torch.sqrt(sum(g.square().sum() for g in meta.inner_gradients[0].values()))
        scale = min(1.0, model.max_grad_norm / (float(norm) + 1e-6))
        actor = model.policy.actor_parameters()
        model.second_gradient = {id(actor[name]): scale * g for name, g in meta.inner_gradients[0].items()}
    expected, step = torch.zeros_like(eta), 1e-5
    for i in range(len(eta)):
        ends = []
        for sign in (1, -1):
            moved = eta.clone()
            moved[i] += sign * step
            etas = [moved if term in terms else eta for term in ("direct", "mixed", "reward")]
            ends.append(extrinsic_loss(model, samples, features, noise, *etas))
        expected[i] = (ends[0] - ends[1]) / (2 * step)
    scale = float(expected.abs().max())
    assert scale > 1e-7, "there must be something to differentiate"
    error = float((gradient - expected).abs().max()) / scale
    print(f"{'+'.join(terms)}: {error:.1e} of {scale:.1e}")
    assert error < 1e-5


@pytest.mark.parametrize("intrinsic_coef", [1.0, 0.5])
def test_advantages_are_linear_in_eta(intrinsic_coef):
    """Â of rewards r_φ(s, a; η) + base, computed by SB3's own buffer, is base + F η."""
    model = make(CLN, walks(horizon=7), gamma=0.9, gae_lambda=0.8, learning_rate=0.0, intrinsic_coef=intrinsic_coef)
    model.learn(64)
    rollout, actions = last_rollout(model)
    x, features = reward_features(model.reward_network, rollout, actions, intrinsic_coef)
    eta = torch.randn(len(model.policy.eta()))
    rewards = intrinsic_coef * (x @ eta).view(2, 32).t().numpy()
    buffer = model.rollout_buffer
    last_values = model.policy.predict_values(torch.as_tensor(model._last_obs)).detach()
    buffer.rewards += rewards  # beside the bootstraps of truncated episodes
    buffer.compute_returns_and_advantage(last_values, model._last_episode_starts)
    found = rollout.samples.advantages + features @ eta
    np.testing.assert_allclose(found.view(2, 32).t(), buffer.advantages, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(x @ model.policy.eta(), model.reward_network(rollout.samples.observations, actions))
    noise = torch.randn(64, len(eta))
    by_hand = torch.stack([features[i] @ eta + (features[i] - features.mean(0)) @ noise[i] for i in range(64)])
    torch.testing.assert_close(perturbed_advantages(features, features.mean(0), eta, noise), by_hand, atol=1e-4, rtol=1e-4)


def test_the_reward_of_each_transition_has_the_eta_that_its_policy_sees(monkeypatch):
    """In one minibatch of a rollout: the advantages' part of ε′ is F ε′ of the same ε′ that the policy sees."""
    model = make(CLN, n_epochs=1, batch_size=64, normalize_advantage=False, learning_rate=0.0)
    model.learn(64)
    rollout, actions = last_rollout(model)
    _, features = reward_features(model.reward_network, rollout, actions, model.intrinsic_coef)
    eta, seen = model.policy.eta(), {}
    monkeypatch.setattr(CLN, "_noise", lambda self, n: 0.3 * torch.randn(n, len(eta)))
    loss, evaluate = ppo_losses.policy_loss, model.policy.evaluate_actions
    monkeypatch.setattr(ppo_losses, "policy_loss", lambda r, a, c: loss(r, seen.setdefault("advantages", a), c))
    monkeypatch.setattr(model.policy, "evaluate_actions", lambda o, a, e: evaluate(o, a, seen.setdefault("eta", e)))
    monkeypatch.setattr(LearnedRewardRollout, "minibatches", lambda self, _: iter([torch.arange(64)]))
    model._policy_steps(rollout, features, rollout.samples.old_values, (0.2, None), defaultdict(list))
    learned = features @ eta + ((features - features.mean(0)) * (seen["eta"] - eta)).sum(1)
    torch.testing.assert_close(seen["advantages"], rollout.samples.advantages + learned)
