"""Action distributions against those of SB3."""

import math

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common import distributions as sb3

from sb3_ext.common.distributions import make_action_distribution

# ---------------------------------------------------------------------- distributions

SPACES = {
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (3,)),
}


def sb3_distribution(space, params):
    distribution = sb3.make_proba_distribution(space)
    if isinstance(space, spaces.Box):
        mean, log_std = params.chunk(2, -1)
        return distribution.proba_distribution(mean, log_std)
    return distribution.proba_distribution(params)


@pytest.mark.parametrize("name", SPACES)
def test_log_prob_entropy_and_kl_equal_sb3(name):
    space = SPACES[name]
    ours = make_action_distribution(space)
    rng = torch.Generator().manual_seed(0)
    params, other = torch.randn(2, 7, ours.n_params, generator=rng, dtype=torch.float64)
    actions = ours.sample(params, ours.sample_noise((7,), rng, torch.device("cpu")).double())
    theirs, their_other = sb3_distribution(space, params), sb3_distribution(space, other)
    actions = actions.double()
    shaped = actions[:, 0] if name == "discrete" else actions
    torch.testing.assert_close(ours.log_prob(params, actions), theirs.log_prob(shaped))
    torch.testing.assert_close(ours.entropy(params), theirs.entropy())
    kl = sb3.kl_divergence(theirs, their_other)
    torch.testing.assert_close(ours.kl_divergence(params, other), kl.sum(-1) if name in ("box", "multibinary") else kl)
    torch.testing.assert_close(ours.kl_divergence(params, params), torch.zeros(7).double())
    assert ours.log_prob(params.view(7, 1, -1), actions.view(7, 1, -1)).shape == (7, 1)


@pytest.mark.parametrize("name", SPACES)
def test_samples_follow_the_probabilities(name):
    """Pearson's χ² of each component against its probabilities (99.9 % quantile), moments for the Gaussian."""
    distribution, n = make_action_distribution(SPACES[name]), 40_000
    rng = torch.Generator().manual_seed(0)
    params = torch.randn(distribution.n_params, generator=rng)
    actions = distribution.sample(params, distribution.sample_noise((n,), rng, torch.device("cpu")))
    if name == "box":
        mean, log_std = params.chunk(2)
        z = (actions - mean) / log_std.exp()
        assert z.mean(0).abs().max() < 4 / math.sqrt(n)
        torch.testing.assert_close(torch.cov(z.T), torch.eye(3), rtol=0, atol=4 * math.sqrt(2 / n))
        return
    sizes = [2] * 3 if name == "multibinary" else [4] if name == "discrete" else [2, 3, 4]
    for column, size in enumerate(sizes):
        chosen = torch.eye(size)[actions[:, column].long()].sum(0)
        single = actions[:1].repeat(size, 1)  # the other components cancel in the softmax over this one
        single[:, column] = torch.arange(size)
        expected = n * torch.softmax(distribution.log_prob(params.expand(size, -1), single), 0)
        statistic = ((chosen - expected) ** 2 / expected).sum()
        assert statistic < {2: 10.8, 3: 13.8, 4: 16.3}[size]


def test_noise_repeats_from_its_generator_and_leaves_the_global_one_alone():
    for space in SPACES.values():
        distribution = make_action_distribution(space)
        state = torch.get_rng_state()
        draws = [distribution.sample_noise((5, 2), torch.Generator().manual_seed(3), torch.device("cpu")) for _ in range(2)]
        assert torch.equal(*draws) and draws[0].isfinite().all() and draws[0].shape == (5, 2, distribution.n_noise)
        assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2, 2)), spaces.Dict(a=spaces.Discrete(2)), spaces.MultiBinary([2, 2])])
def test_unsupported_action_spaces_are_named(space):
    with pytest.raises(NotImplementedError, match="Unsupported action space"):
        make_action_distribution(space)
