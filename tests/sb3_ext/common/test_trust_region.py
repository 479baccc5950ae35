"""The trust-region step against closed forms."""

import math

import pytest
import torch
from gymnasium import spaces
from helpers.finite_differences import make_tree

from sb3_ext.common.distributions import make_action_distribution
from sb3_ext.common.trust_region import conjugate_gradients, flatten, trust_region_step

# ---------------------------------------------------------------------- trust region


@pytest.fixture
def spd():
    root = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return root @ root.T + torch.eye(8)


def test_conjugate_gradients_solve_a_random_system(spd):
    b = torch.arange(1.0, 9.0, dtype=torch.float64)
    x = conjugate_gradients(lambda v: spd @ v, b, max_steps=8, residual_tolerance=1e-30)
    torch.testing.assert_close(x, torch.linalg.solve(spd, b), rtol=1e-8, atol=1e-8)
    assert not conjugate_gradients(lambda v: spd @ v, torch.zeros_like(b)).any()


def test_zero_gradient_takes_no_step(spd):
    params = make_tree(0)
    zero = {key: torch.zeros_like(value) for key, value in params.items()}
    result = trust_region_step(params, zero, lambda p: 0.5 * flatten(p) @ spd @ flatten(p), 0.01)
    assert (result.kl, result.backtracks, result.accepted) == (0.0, 0, False)
    assert all(torch.equal(result.params[key], value) for key, value in params.items())


def test_non_finite_gradient_is_refused(spd):
    bad = {key: torch.full_like(value, math.nan) for key, value in make_tree(0).items()}
    with pytest.raises(ValueError, match="not finite"):
        trust_region_step(make_tree(0), bad, lambda p: flatten(p) @ flatten(p), 0.01)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_quadratic_kl_gives_the_closed_form_step(spd, damping):
    """KL = ½ dᵀHd: the step is √(2δ / gᵀ(H + c)⁻¹g) (H + c)⁻¹ g, on the boundary without damping and inside it with."""
    params, gradient, max_kl = make_tree(0), make_tree(1), 0.01
    origin = flatten(params)

    def kl_divergence(p):
        d = flatten(p) - origin
        return 0.5 * d @ spd @ d

    # δ a rounding error larger: without damping the first candidate lies on the boundary itself.
    result = trust_region_step(params, gradient, lambda p: kl_divergence(p) * (1 - 1e-9), max_kl, cg_damping=damping)
    natural = torch.linalg.solve(spd + damping * torch.eye(8), flatten(gradient))
    step = natural * torch.sqrt(2 * max_kl / (natural @ flatten(gradient)))
    torch.testing.assert_close(flatten(result.params) - origin, step, rtol=1e-4, atol=1e-6)
    assert result.accepted and result.backtracks == 0
    assert result.kl == pytest.approx(max_kl if damping == 0 else float(0.5 * step @ spd @ step), rel=1e-4)


@pytest.mark.parametrize("max_kl", [1e-4, 1e-2, 1.0])
def test_kl_stays_within_the_trust_region(max_kl):
    """Of a policy whose KL is far from quadratic."""
    observations = torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    distribution = make_action_distribution(spaces.Discrete(2))
    for seed in range(10):
        params = make_tree(seed, 2.0)

        def act(p):
            return observations @ p["w"] + p["b"]

        old = act(params)

        def kl_divergence(p, act=act, old=old):
            return distribution.kl_divergence(old, act(p)).mean()

        result = trust_region_step(params, make_tree(seed + 50, 100.0), kl_divergence, max_kl)
        assert float(kl_divergence(result.params)) == pytest.approx(result.kl)
        assert result.kl <= max_kl
        if result.accepted:
            # any fewer backtracks would have left the region; the length is the full step's times 0.7 to their number
            assert result.kl > 0.2 * max_kl or result.backtracks == 0


def test_backtracks_are_counted():
    """A KL that is 0.005 s² at θ and 4 times that off it needs the step halved: 0.7² < ½ < 0.7."""
    params = {"x": torch.zeros(1, dtype=torch.float64)}

    def kl_divergence(p):
        x = p["x"][0]
        return 0.5 * x**2 * torch.where(x.abs() > 1e-6, 4.0, 1.0)

    result = trust_region_step(params, {"x": torch.ones(1).double()}, kl_divergence, 0.01, cg_damping=0.0)
    assert result.accepted and result.backtracks == 2
    torch.testing.assert_close(result.params["x"], torch.tensor([math.sqrt(0.02) * 0.49]).double())
    refused = trust_region_step(
        params, {"x": torch.ones(1).double()}, lambda p: kl_divergence(p) * (1 + 1e6 * (p["x"][0] > 1e-6)), 0.01
    )
    assert not refused.accepted and refused.backtracks == 15 and refused.params is params and refused.kl == 0.0
