"""LIRPG's gradient in η against the matrix form of its paper's program, and the returns of both critics."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers.learned_rewards import make
from helpers.walk import walks
from stable_baselines3 import PPO
from torch.func import functional_call

from sb3_ext import LIRPG, LIRPGA2C

BOTH = pytest.mark.parametrize("algorithm", [LIRPG, LIRPGA2C], ids=lambda algorithm: algorithm.__name__)


def in_float64(model, monkeypatch):
    """The model, its optimisers and the rollout it has just collected, in double precision."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # preprocess_obs casts
    for part in (model.policy, model.reward_network, model.extrinsic_critic):
        part.double()
    for optimizer in (model.policy.optimizer, model.reward_optimizer, model.extrinsic_optimizer):
        for state in optimizer.state.values():
            state |= {key: value.double() for key, value in state.items() if key != "step"}
    rollout = model._rollout(10**6)
    rollout.samples = type(rollout.samples)(*(x.double() if x.is_floating_point() else x for x in rollout.samples))
    rollout.discount = rollout.discount.double()
    return rollout


def matrix_of(model, rollout):
    """``[n, n]``: (γλ)^(j − i) where step j follows i in the same episode."""
    n_steps, n_envs = rollout.discount.shape
    done = np.concatenate([model.rollout_buffer.episode_starts[1:], model._last_episode_starts[None]])
    matrix = torch.zeros(n_steps * n_envs, n_steps * n_envs, dtype=torch.float64)
    for env in range(n_envs):
        for i in range(n_steps):
            for j in range(i, n_steps):
                matrix[env * n_steps + i, env * n_steps + j] = (model.gamma * model.gae_lambda) ** (j - i)
                if done[j, env]:
                    break
    return matrix


def evaluate(model, params, samples):
    """V^mix, log π and the mean entropy at other parameters of the policy."""

    class Evaluation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.policy = model.policy

        def forward(self, observations, actions):
            return self.policy.evaluate_actions(observations, actions)

    named = {f"policy.{name}": value for name, value in params.items()}
    values, log_prob, entropy = functional_call(Evaluation(), named, (samples.observations, samples.actions))
    return values.flatten(), log_prob, entropy.mean()


def normalized(x):
    return (x - x.mean()) / (x.std() + 1e-8)


def clipped_surrogate(log_prob, samples, advantages):
    ratio = torch.exp(log_prob - samples.old_log_prob)
    return -torch.min(ratio * normalized(advantages), ratio.clamp(0.8, 1.2) * normalized(advantages)).mean()


def inner_loss(model, params, samples, mixed):
    values, log_prob, entropy = evaluate(model, params, samples)
    policy_loss = clipped_surrogate(log_prob, samples, mixed) if isinstance(model, PPO) else -(mixed * log_prob).mean()
    value_loss = (mixed + samples.old_values - values).square().mean()
    return policy_loss - model.ent_coef * entropy + model.vf_coef * value_loss


def outer_loss(model, params, samples):
    log_prob = evaluate(model, params, samples)[1]
    if isinstance(model, PPO):
        return clipped_surrogate(log_prob, samples, samples.extrinsic_advantages)
    return -(torch.exp(log_prob - samples.old_log_prob) * samples.extrinsic_advantages).mean()


def optimizer_step(model, params, gradients, moments):
    """One step of Adam or RMSprop after the clip, written out; ``moments`` of each parameter are replaced."""
    norm = torch.sqrt(sum(g.square().sum() for g in gradients.values()))
    scale = model.max_grad_norm / (norm + 1e-6) if norm > model.max_grad_norm else 1.0
    group = model.policy.optimizer.param_groups[0]
    new = {}
    for name, value in params.items():
        g, state = scale * gradients[name], moments[name]
        if isinstance(model, PPO):
            second = g.detach()
            t = int(state["step"]) + 1
            m, v = 0.9 * state["exp_avg"] + 0.1 * g, 0.999 * state["exp_avg_sq"] + 0.001 * second**2
            moments[name] = {"step": t, "exp_avg": m, "exp_avg_sq": v}
            step = m / (1 - 0.9**t) / (torch.sqrt(v / (1 - 0.999**t)) + group["eps"])
        else:
            v = 0.99 * state["square_avg"] + 0.01 * g**2
            step = g / (torch.sqrt(v) + group["eps"])
        new[name] = value - group["lr"] * step
    return new


def naive(model, rollout, rows):
    """∂(−J^ex)/∂η and θ′ from the matrix and autograd over a graph of everything."""
    samples, matrix = rollout.samples, matrix_of(model, rollout)
    rewards = model.reward_network(samples.observations, samples.actions)
    advantages = samples.advantages + model.intrinsic_coef * matrix @ rewards
    params = dict(model.policy.named_parameters())
    moments = {name: model.policy.optimizer.state[value] for name, value in params.items()}
    loss = inner_loss(model, params, samples.rows(rows), advantages[rows])
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    params = optimizer_step(model, params, dict(zip(params, gradients, strict=True)), moments)
    loss = outer_loss(model, params, samples.rows(rows))
    return torch.autograd.grad(loss, list(model.reward_network.parameters())), params


def assert_steps_are_naive(model, expected, params):
    """The gradient that the reward network was given (it is clipped) and the policy after the update."""
    norm = torch.sqrt(sum(g.square().sum() for g in expected))
    scale = min(1.0, model.max_grad_norm / float(norm + 1e-6))
    largest = float(max(g.abs().max() for g in expected)) * scale
    assert largest > 1e-8, "there must be something to compare"
    for parameter, gradient in zip(model.reward_network.parameters(), expected, strict=True):
        assert float((parameter.grad - scale * gradient).abs().max()) < 1e-9 * largest
    for name, value in model.policy.named_parameters():
        torch.testing.assert_close(value.detach(), params[name].detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_the_gradient_of_a_minibatch_is_that_of_the_matrix_form(monkeypatch, action_space):
    settings = dict(extrinsic_coef=0.5, intrinsic_coef=0.7, ent_coef=0.01)
    model = make(LIRPG, walks(action_space=action_space, horizon=9), **settings)
    model.learn(128)  # so that the optimiser has moments
    rollout = in_float64(model, monkeypatch)
    rows = torch.arange(0, 64, 5)
    expected, params = naive(model, rollout, rows)
    assert model._update((model._point(), rollout.samples, rollout.discounted_sum, rows, 0.2, None), defaultdict(list))
    assert_steps_are_naive(model, expected, params)


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_the_gradient_of_a2cs_form_is_that_of_the_matrix_form(monkeypatch, action_space):
    settings = dict(gae_lambda=0.9, ent_coef=0.01)
    model = make(LIRPGA2C, walks(action_space=action_space, horizon=5), **settings).learn(64)
    rollout = in_float64(model, monkeypatch)
    expected, params = naive(model, rollout, torch.arange(16))
    monkeypatch.setattr(model, "_rollout", lambda chunk: rollout)
    model.train()
    assert_steps_are_naive(model, expected, params)


@BOTH
def test_every_return_of_a_truncated_episode_is_bootstrapped_with_its_own_critic(algorithm):
    model = make(algorithm, walks(horizon=5), gamma=0.9, gae_lambda=1.0, extrinsic_coef=0.5, intrinsic_coef=2.0, n_steps=32)
    model.lr_schedule = model.reward_lr_schedule = lambda _: 0.0  # the critics stay those of the rollout
    model.learn(64)
    rollout, ends = model._rollout(7), {(t, env): end for t, env, end in model._recorder.truncated}
    done = np.concatenate([model.rollout_buffer.episode_starts[1:], model._last_episode_starts[None]]) > 0
    assert 0 < len(ends) < done.sum(), "episodes must end both ways"
    samples = rollout.samples
    with torch.no_grad():
        rewards = model.reward_network(samples.observations, samples.actions).view(2, 32).t().numpy()
        sums = rollout.discounted_sum.copy_by_copy(torch.as_tensor(rewards).t().flatten())
        mixed = samples.advantages + samples.old_values + 2 * sums
    extrinsic = np.stack(model._recorder.rewards)
    mixed_critic = lambda o: float(model.policy.predict_values(torch.as_tensor(o)[None]))  # noqa: E731
    extrinsic_critic = lambda o: float(model.extrinsic_critic(torch.as_tensor(o)[None]))  # noqa: E731
    for critic, received, found in (
        (mixed_critic, 0.5 * extrinsic + 2 * rewards, mixed),
        (extrinsic_critic, extrinsic, samples.extrinsic_returns),
    ):
        for env in range(2):
            following = critic(model._last_obs[env])
            for t in reversed(range(32)):
                if done[t, env]:
                    following = critic(ends[t, env]) if (t, env) in ends else 0.0
                following = float(received[t, env]) + 0.9 * following
                assert float(found[env * 32 + t]) == pytest.approx(following, rel=1e-4, abs=1e-4)
