"""GAE and discounted sums against their definitions and finite differences."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers.finite_differences import central_difference
from torch.func import grad

from sb3_ext.common.gae import discounted_sum, generalized_advantage_estimation

GAMMA, LAMBDA = 0.97, 0.9


# ---------------------------------------------------------------------- gae


@pytest.fixture
def episodes():
    """T = 12 steps of 2 × 3 environments with terminations, truncations and episodes that continue past the end."""
    rng = torch.Generator().manual_seed(0)
    sample = partial(torch.randn, (12, 2, 3), generator=rng, dtype=torch.float64)
    rewards, values, next_values = sample(), sample(), sample()
    kind = torch.rand((12, 2, 3), generator=rng)
    terminated, truncated = kind < 0.15, kind > 0.85
    assert terminated.any() and truncated.any() and not (terminated | truncated)[-1].all()
    return rewards, values, next_values, terminated, terminated | truncated


def naive_gae(rewards, values, next_values, terminated, done):
    """Â_t = Σ_{l ≥ t} (γλ)^{l−t} δ_l up to the end of the episode, term by term."""
    advantages = torch.zeros_like(rewards)
    for index in np.ndindex(*rewards.shape[1:]):
        for t in range(len(rewards)):
            for offset, later in enumerate(range(t, len(rewards))):
                at = (later, *index)
                bootstrap = 0.0 if terminated[at] else GAMMA * next_values[at]
                advantages[(t, *index)] += (GAMMA * LAMBDA) ** offset * (rewards[at] + bootstrap - values[at])
                if done[at]:
                    break
    return advantages


@pytest.mark.parametrize("bootstrap_truncated", [True, False])
def test_gae_equals_its_definition(episodes, bootstrap_truncated):
    rewards, values, next_values, terminated, done = episodes
    ends = terminated if bootstrap_truncated else done
    result = generalized_advantage_estimation(rewards, values, next_values, ends, done, GAMMA, LAMBDA)
    torch.testing.assert_close(result, naive_gae(rewards, values, next_values, ends, done), rtol=1e-12, atol=1e-12)


def test_gae_of_one_undiscounted_episode_is_the_return_minus_the_value():
    rewards, values = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, -1.0, 3.0])
    done = torch.tensor([False, False, True])
    result = generalized_advantage_estimation(rewards, values, torch.tensor([-1.0, 3.0, 9.0]), done, done, 1.0, 1.0)
    torch.testing.assert_close(result, torch.tensor([7.0, 6.0, 4.0]) - values)


@pytest.mark.parametrize("argument", [0, 1, 2], ids=["rewards", "values", "next_values"])
def test_gradient_of_gae_equals_finite_differences(episodes, argument):
    *inputs, terminated, done = episodes
    direction = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def objective(x):
        given = [*inputs]
        given[argument] = x.view_as(inputs[0])
        advantages = generalized_advantage_estimation(*given, terminated, done, GAMMA, LAMBDA)
        return (torch.tanh(advantages) * direction).sum()[None]

    x = inputs[argument].flatten()
    exact = central_difference(objective, x)[0]
    torch.testing.assert_close(grad(lambda x: objective(x)[0])(x), exact, rtol=0, atol=1e-6)
    leaf = x.clone().requires_grad_()
    objective(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, exact, rtol=0, atol=1e-6)


def test_discounted_sum_is_twice_differentiable(episodes):
    x, done = episodes[0].flatten(1).requires_grad_(), episodes[-1].flatten(1)
    decay = 0.9 * (~done).double()
    assert torch.autograd.gradcheck(lambda x: discounted_sum(x, decay), x)
    assert torch.autograd.gradgradcheck(lambda x: discounted_sum(x, decay) ** 3, x)

    def objective(x):
        return (discounted_sum(x.view_as(done), decay) ** 3).sum()

    flat = x.detach().flatten()
    direction = torch.linspace(-1, 1, len(flat), dtype=torch.float64)
    product = grad(lambda x: grad(objective)(x) @ direction)(flat)
    exact = direction @ central_difference(grad(objective), flat)
    torch.testing.assert_close(product, exact, rtol=1e-6, atol=1e-6)


def test_discounted_sum_wants_equal_shapes():
    with pytest.raises(ValueError, match=r"\(3, 2\) and \(3,\)"):
        discounted_sum(torch.zeros(3, 2), torch.zeros(3))
