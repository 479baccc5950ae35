"""Each term of the meta-gradient against central differences in float64, for every optimiser and both kinds of policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from sb3_ext.common.distributions import Categorical, DiagonalGaussian
from sb3_ext.common.gae import generalized_advantage_estimation
from sb3_ext.common.meta_gradient import Term, meta_gradient
from sb3_ext.common.optimizers import SGD, Adam, Params, RMSprop, clip_by_global_norm

T, B, N_OBS = 6, 3, 4
OPTIMIZERS = {
    "sgd": SGD(0.3),
    "rmsprop": RMSprop(0.05, eps=1e-3),
    "adam": Adam(0.05, eps=1e-3),
}


class Problem:
    """A policy that sees η, advantages through GAE from a reward network with weights η, PPO's clipped losses; float64."""

    def __init__(self, continuous: bool, n_updates: int) -> None:
        generator = torch.Generator().manual_seed(7 + continuous)

        def randn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        n_actions = 2 if continuous else 3
        self.distribution = DiagonalGaussian(2) if continuous else Categorical([3])
        self.theta: Params = {"w": 0.5 * randn(N_OBS, 5), "v": 0.5 * randn(5, n_actions)}
        if continuous:
            self.theta["log_std"] = 0.1 * randn(2)
        self.eta: Params = {"gate": 0.5 * randn(5), "reward": 0.5 * randn(N_OBS + 1)}
        self.batches = []
        for _ in range(n_updates + 1):
            observations = randn(T, B, N_OBS)
            outputs = self.outputs(self.theta, self.eta, observations)
            actions = self.distribution.sample(outputs, 0.5 * randn(T, B, self.distribution.n_noise))
            old = self.distribution.log_prob(outputs, actions) + 0.05 * randn(T, B)
            done = torch.rand(T, B, generator=generator) < 0.2
            self.batches.append((observations, actions, old, done, randn(T, B), randn(T, B)))

    def outputs(self, theta: Params, eta: Params, observations: Tensor) -> Tensor:
        hidden = torch.tanh(observations @ theta["w"]) * torch.sigmoid(eta["gate"])
        outputs = hidden @ theta["v"]
        if "log_std" in theta:
            outputs = torch.cat([outputs, theta["log_std"].expand_as(outputs)], -1)
        return outputs

    def _loss(self, number: int, theta: Params, eta: Params, rewards: Tensor | None) -> Tensor:
        observations, actions, old, done, extrinsic, values = self.batches[number]
        next_values = torch.cat([values[1:], torch.zeros_like(values[:1])])
        rewards = extrinsic if rewards is None else 0.3 * extrinsic + rewards
        advantages = generalized_advantage_estimation(rewards, values, next_values, done, done, 0.9, 0.8)
        advantages = (advantages - advantages.mean()) / advantages.std()
        ratio = torch.exp(self.distribution.log_prob(self.outputs(theta, eta, observations), actions) - old)
        return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()

    def inner(self, number: int) -> Callable[[Params, Params, Params], Tensor]:
        def loss(theta: Params, seen: Params, given: Params) -> Tensor:
            observations, actions = self.batches[number][:2]
            inputs = torch.cat([observations, actions.double()[..., :1]], -1)
            return self._loss(number, theta, seen, torch.tanh(inputs @ given["reward"]))

        return loss

    def outer(self, theta: Params, eta: Params) -> Tensor:
        return self._loss(len(self.batches) - 1, theta, eta, None)


@dataclass
class FrozenSecondMoment:
    """The optimiser with its second moments taken from a run before: what "held fixed" means in the difference."""

    optimizer: Any
    moments: list[Params]
    step: int = 0

    def update(self, params: Params, grads: Params, state: dict) -> tuple[Params, dict]:
        v = self.moments[self.step]
        self.step += 1
        given = {n: g.detach() for n, g in grads.items()}
        _, after = self.optimizer.update({n: p.detach() for n, p in params.items()}, given, state)
        if isinstance(self.optimizer, RMSprop):
            new = {
                n: p - self.optimizer.learning_rate * grads[n] / (v[n].sqrt() + self.optimizer.eps) for n, p in params.items()
            }
            return new, after
        beta1, beta2 = self.optimizer.betas
        m = {n: beta1 * state["m"][n] + (1 - beta1) * g for n, g in grads.items()}
        count = state["step"] + 1
        size, root = self.optimizer.learning_rate / (1 - beta1**count), (1 - beta2**count) ** 0.5
        new = {n: p - size * m[n] / (v[n].sqrt() / root + self.optimizer.eps) for n, p in params.items()}
        return new, {**after, "m": m}


class Recorder:
    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.moments = optimizer, []

    def update(self, params: Params, grads: Params, state: dict) -> tuple[Params, dict]:
        new, after = self.optimizer.update(params, grads, state)
        self.moments.append({n: v.detach() for n, v in after["v"].items()})
        return new, after


def outer_after(
    problem: Problem, optimizer: Any, state: dict, max_norm: float | None, etas: list[tuple], acting: Params
) -> float:
    """J_ex after the updates, written out: ``etas`` are the (seen, given) parameters of each."""
    theta = {name: value.clone().requires_grad_() for name, value in problem.theta.items()}
    for number, (seen, given) in enumerate(etas):
        values = torch.autograd.grad(problem.inner(number)(theta, seen, given), list(theta.values()))
        gradient = clip_by_global_norm(dict(zip(theta, values, strict=True)), max_norm)
        theta, state = optimizer.update(theta, gradient, state)
        theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
    return float(problem.outer(theta, acting).detach())


def finite_difference(problem: Problem, make_optimizer, state, max_norm, terms, n_updates: int, step: float = 1e-5) -> Params:
    gradient = {name: torch.zeros_like(value) for name, value in problem.eta.items()}
    for name, value in problem.eta.items():
        for i in range(value.numel()):
            ends = []
            for sign in (1, -1):
                moved = {n: v.clone() for n, v in problem.eta.items()}
                moved[name].view(-1)[i] += sign * step
                etas = []
                for k in range(n_updates):
                    counts = "multi_step" in terms or k == n_updates - 1
                    etas.append(
                        (
                            moved if counts and "mixed" in terms else problem.eta,
                            moved if counts and "reward" in terms else problem.eta,
                        )
                    )
                acting = moved if "direct" in terms else problem.eta
                ends.append(outer_after(problem, make_optimizer(), state, max_norm, etas, acting))
            gradient[name].view(-1)[i] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def assert_close(one: Params, other: Params) -> None:
    scale = max(float(value.abs().max()) for value in other.values())
    assert scale > 1e-5, "the problem must have something to differentiate"
    for name, value in other.items():
        assert torch.allclose(one[name], value, atol=1e-6 * scale, rtol=0), name


def warm_state(optimizer: Any, theta: Params) -> dict:
    """The optimiser's state after some updates, as in the middle of training."""
    state = optimizer.init(theta)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        noise = {n: 0.1 * torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in theta.items()}
        state = optimizer.update(theta, noise, state)[1]
    return state


TERM_SETS: list[tuple[Term, ...]] = [("direct",), ("mixed",), ("reward",), ("direct", "mixed", "reward")]


@pytest.mark.parametrize("max_norm", [None, 0.05], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("continuous", [False, True], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("terms", TERM_SETS, ids="+".join)
def test_each_term_is_the_finite_difference(terms, name: str, continuous: bool, max_norm: float | None) -> None:
    problem, optimizer = Problem(continuous, 1), OPTIMIZERS[name]
    state = warm_state(optimizer, problem.theta)
    result = meta_gradient(
        problem.theta,
        problem.eta,
        [problem.inner(0)],
        problem.outer,
        optimizer,
        state,
        terms=terms,
        max_grad_norm=max_norm,
    )
    assert_close(result.gradient, finite_difference(problem, lambda: optimizer, state, max_norm, terms, 1))


@pytest.mark.parametrize("continuous", [False, True], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "terms",
    [("reward",), ("direct", "mixed", "reward"), ("reward", "multi_step"), ("direct", "mixed", "reward", "multi_step")],
)
def test_an_unroll_of_three_updates(terms, name: str, continuous: bool) -> None:
    problem, optimizer = Problem(continuous, 3), OPTIMIZERS[name]
    state = warm_state(optimizer, problem.theta)
    losses = [problem.inner(k) for k in range(3)]
    result = meta_gradient(
        problem.theta, problem.eta, losses, problem.outer, optimizer, state, terms=terms, max_grad_norm=0.05
    )
    assert len(result.inner_gradients) == 3
    assert_close(result.gradient, finite_difference(problem, lambda: optimizer, state, 0.05, terms, 3))


@pytest.mark.parametrize("n_updates", [1, 3])
@pytest.mark.parametrize(
    "optimizer",
    [RMSprop(0.05, eps=1e-3, differentiate_second_moment=False), Adam(0.05, eps=1e-3, differentiate_second_moment=False)],
    ids=["rmsprop", "adam"],
)
def test_a_second_moment_without_gradient_is_held_fixed(optimizer: Any, n_updates: int) -> None:
    problem = Problem(True, n_updates)
    state = warm_state(optimizer, problem.theta)
    terms: tuple[Term, ...] = ("direct", "mixed", "reward", "multi_step")
    recorder = Recorder(optimizer)
    losses = [problem.inner(k) for k in range(n_updates)]
    result = meta_gradient(problem.theta, problem.eta, losses, problem.outer, recorder, state, terms=terms)
    expected = finite_difference(
        problem, lambda: FrozenSecondMoment(optimizer, recorder.moments), state, None, terms, n_updates
    )
    assert_close(result.gradient, expected)


def test_terms_add_up() -> None:
    problem, optimizer = Problem(False, 1), OPTIMIZERS["adam"]
    state = optimizer.init(problem.theta)

    def gradient(*terms: Term) -> Params:
        args = (problem.theta, problem.eta, [problem.inner(0)], problem.outer, optimizer, state)
        return meta_gradient(*args, terms=terms).gradient

    parts = [gradient("direct"), gradient("mixed"), gradient("reward")]
    for name, value in gradient("direct", "mixed", "reward").items():
        assert torch.allclose(value, sum(part[name] for part in parts), atol=1e-12)
    assert all(not value.any() for value in gradient().values())


def test_without_updates_only_the_direct_term_is_left() -> None:
    problem = Problem(True, 1)
    result = meta_gradient(problem.theta, problem.eta, [], problem.outer, SGD(0.1), {}, terms=("direct", "reward"))
    eta = {name: value.clone().requires_grad_() for name, value in problem.eta.items()}
    expected = torch.autograd.grad(problem.outer(problem.theta, eta), eta["gate"])[0]
    assert torch.equal(result.gradient["gate"], expected)
    assert not result.gradient["reward"].any()


def test_an_unknown_term_is_named() -> None:
    problem = Problem(False, 1)
    with pytest.raises(ValueError, match=r"\['rewards'\].*direct.*mixed.*reward"):
        meta_gradient(problem.theta, problem.eta, [], problem.outer, SGD(0.1), {}, terms=("rewards",))


@pytest.mark.parametrize("n", range(1, 10))
def test_lirpgs_matrix_form(n: int) -> None:
    """The reward term of one SGD step on E[log π Â] is α λ Σ_t Σ_{i≥t} γ^{i−t} ∇_η r_i (∇_θ log π_t · ∇_θ′ J_ex): LIRPG's
    n × n sum, written out."""
    generator = torch.Generator().manual_seed(n)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    observations, actions = randn(n, 3), torch.randint(4, (n, 1), generator=generator)
    theta, eta = {"w": randn(3, 4)}, {"r": randn(3)}
    returns, gamma, alpha, coef = randn(n), 0.9, 0.1, 0.7
    distribution = Categorical([4])
    zeros, never = torch.zeros(n, 1, dtype=torch.float64), torch.zeros(n, 1, dtype=torch.bool)

    def inner(params: Params, seen: Params, given: Params) -> Tensor:
        rewards = coef * torch.tanh(observations @ given["r"])[:, None]
        to_go = generalized_advantage_estimation(rewards, zeros, zeros, never, never, gamma, 1.0)[:, 0]
        return -(distribution.log_prob(observations @ params["w"], actions) * to_go).sum()

    def outer(params: Params, acting: Params) -> Tensor:
        return -(distribution.log_prob(observations @ params["w"], actions) * returns).sum()

    result = meta_gradient(theta, eta, [inner], outer, SGD(alpha), {}, terms=("reward",))

    def scores(w: Tensor) -> Tensor:  # ∇_θ log π_t, [n, 3, 4]
        one_hot = torch.nn.functional.one_hot(actions[:, 0], 4).double()
        return observations[:, :, None] * (one_hot - torch.softmax(observations @ w, -1))[:, None, :]

    theta_after = theta["w"].clone()
    for t in range(n):
        to_go = sum(gamma ** (i - t) * coef * torch.tanh(observations[i] @ eta["r"]) for i in range(t, n))
        theta_after += alpha * to_go * scores(theta["w"])[t]
    outer_gradient = (scores(theta_after) * returns[:, None, None]).sum(0)
    expected = torch.zeros(3, dtype=torch.float64)
    for t in range(n):
        for i in range(t, n):
            slope = (1 - torch.tanh(observations[i] @ eta["r"]) ** 2) * observations[i]
            expected -= alpha * coef * gamma ** (i - t) * slope * (scores(theta["w"])[t] * outer_gradient).sum()
    assert torch.allclose(result.params["w"], theta_after, atol=1e-12)
    assert torch.allclose(result.gradient["r"], expected, atol=1e-10)
