"""RND and DRND against their papers' definitions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from irwrappers import DRND, RND, Transitions
from irwrappers.intrinsic.rnd import pseudo_count

SPACE, ACTIONS = spaces.Box(-np.inf, np.inf, (4,)), spaces.Discrete(2)


def steps_to(next_observations, n_envs=1):
    """Transitions that end in ``next_observations`` ``[n, d]``; whatever else they are must not matter."""
    following = torch.as_tensor(next_observations).float().view(-1, n_envs, 4)
    shape = following.shape[:2]
    flags = torch.zeros(shape, dtype=torch.bool)
    return Transitions(torch.randn(*shape, 4), torch.randint(2, shape), following, flags, flags)


def rooms(seed=0, n=256):
    """States in two corners far from each other."""
    generator = torch.Generator().manual_seed(seed)
    seen, unseen = 0.3 * torch.randn(2, n, 4, generator=generator)
    return seen + torch.tensor([1.0, 1, 0, 0]), unseen - torch.tensor([1.0, 1, 0, 0])


# --- RND


def test_rnd_is_the_mean_squared_difference_from_a_fixed_network():
    torch.manual_seed(0)
    rnd = RND(SPACE, ACTIONS, latent_dim=5)
    rnd.normalizer.update(torch.randn(100, 4) * 3 + 2)
    x = torch.randn(6, 4) * 9
    batch = steps_to(x, n_envs=2)
    mean, std = rnd.normalizer.statistics["of_"].mean, rnd.normalizer.statistics["of_"].std
    seen = ((x - mean) / std).clamp(-5, 5).float()
    expected = ((rnd.predictor(seen) - rnd.targets[0](seen)) ** 2).sum(1) / 5
    torch.testing.assert_close(rnd.compute(batch).flatten(), expected.detach())


def test_only_the_predictor_learns_and_only_from_next_observations():
    torch.manual_seed(0)
    rnd, (x, _) = RND(SPACE, ACTIONS), rooms()
    before = {name: value.clone() for name, value in rnd.named_parameters()}
    batch = steps_to(x)
    batch.observations = torch.full_like(batch.observations, 1e30)
    rnd.update(batch)
    moved = {name.split(".")[0] for name, value in rnd.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"predictor"}
    assert rnd.normalizer.statistics["of_"].mean.abs().max() < 10


@pytest.mark.parametrize("reward_class", [RND, DRND])
def test_the_bonus_falls_where_it_was_and_stays_where_it_was_not(reward_class):
    torch.manual_seed(0)
    reward, (seen, unseen) = reward_class(SPACE, ACTIONS, normalize_observations=False, learning_rate=1e-3), rooms()
    first, elsewhere = (reward.compute(steps_to(x)).mean() for x in (seen, unseen))
    for _ in range(200):
        reward.update(steps_to(seen))
    assert reward.compute(steps_to(seen)).mean() < 0.05 * first
    assert reward.compute(steps_to(unseen)).mean() > 0.5 * elsewhere


@pytest.mark.parametrize(
    ("proportion", "n_envs", "expected"), [(None, 4, 512), (None, 64, 256), (0.25, 4, 128), (1.0, 64, 512), (0.0001, 4, 1)]
)
def test_the_share_of_experience_that_trains_the_predictor(proportion, n_envs, expected):
    rnd, rows = RND(SPACE, ACTIONS, update_proportion=proportion, batch_size=100, n_epochs=2), []
    loss = rnd.loss
    rnd.loss = lambda batch: (rows.append(batch.next_observations), loss(batch))[1]
    x = torch.randn(512, 4)
    rnd.update(steps_to(x, n_envs))
    assert sum(map(len, rows)) == 2 * expected
    assert rnd.normalizer.statistics["of_"].count[0] == 512  # all of it, for the normalisation
    first, second = torch.cat(rows)[:expected], torch.cat(rows)[expected:]
    assert len(first.unique(dim=0)) == expected and (expected == 512 or not torch.equal(first, second))


def test_the_predictor_is_two_layers_deeper_and_both_start_orthogonal():
    rnd = RND(SPACE, ACTIONS, latent_dim=7, hidden_sizes=(16,))
    sizes = [[tuple(layer.weight.shape) for layer in net.head[::2]] for net in (rnd.targets[0], rnd.predictor)]
    assert sizes == [[(16, 4), (7, 16)], [(16, 4), (16, 16), (16, 16), (7, 16)]]
    torch.testing.assert_close(rnd.targets[0].head[0].weight.mT @ rnd.targets[0].head[0].weight, 2 * torch.eye(4))


# --- DRND


def test_pseudo_count_by_hand():
    # Two targets ±1 on one entry: μ = 0, B₂ = 1, so y = f². After one visit f = ±1 and y = 1; after two, f is 0 or ±1.
    targets = torch.tensor([[[1.0]], [[-1.0]]]).expand(2, 4, 1)
    assert pseudo_count(torch.tensor([[1.0], [-1.0], [0.0], [0.5]]), targets).tolist() == [1, 1, 0, 0.25]
    # Targets (3, 1) and (1, 1): μ = (2, 1), B₂ = 6, ‖μ‖² = 5, variance 1; f = (2.5, 1): ‖f‖² = 7.25.
    assert pseudo_count(torch.tensor([[2.5, 1.0]]), torch.tensor([[[3.0, 1.0]], [[1.0, 1.0]]])).tolist() == [2.25]
    assert pseudo_count(torch.ones(1, 3), torch.ones(5, 1, 3)).tolist() == [0]  # all agree


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_pseudo_count_is_an_unbiased_estimate_of_one_over_n(n):
    # The paper's lemma: f the mean of n targets sampled with replacement.
    generator = torch.Generator().manual_seed(n)
    targets = (3 + torch.randn(10, 1, 8, generator=generator)).expand(10, 40_000, 8)  # a mean well away from 0
    sampled = torch.randint(10, (n, 40_000), generator=generator)
    f = torch.stack([targets[row, torch.arange(40_000)] for row in sampled]).mean(0)
    y = pseudo_count(f, targets)
    error = y.std() / len(y) ** 0.5
    assert abs(y.mean() - 1 / n) < 4 * error and error < 0.03


def test_drnd_is_alpha_b1_and_b2():
    torch.manual_seed(0)
    drnd = DRND(SPACE, ACTIONS, n_targets=3, alpha=0.7, latent_dim=6, normalize_observations=False)
    x = torch.randn(50, 4)
    f, c = drnd.predictor(x).detach(), torch.stack([target(x) for target in drnd.targets])
    mean, second = c.mean(0), (c**2).mean(0)
    y = ((f**2 - mean**2).sum(1) / (second - mean**2).sum(1)).clamp(0, 1)
    expected = 0.7 * ((f - mean) ** 2).sum(1) + 0.3 * y**0.5
    torch.testing.assert_close(drnd.compute(steps_to(x)).flatten(), expected, atol=1e-4, rtol=1e-4)


def test_drnd_learns_from_every_network_evenly():
    # A predictor that is a bare number ends at the mean of the targets, its loss at their variance.
    torch.manual_seed(0)
    drnd = DRND(SPACE, ACTIONS, n_targets=4, latent_dim=3, learning_rate=0.02, normalize_observations=False)
    batch = steps_to(torch.ones(256, 4))
    for _ in range(300):
        log = drnd.update(batch)
    targets = torch.stack([target(torch.ones(1, 4)) for target in drnd.targets])
    torch.testing.assert_close(drnd.predictor(torch.ones(1, 4)).detach(), targets.mean(0), atol=0.3, rtol=0)
    assert log["loss"] == pytest.approx(targets.var(0, correction=0).mean().item(), rel=0.2)


def test_b2_falls_with_visits():
    torch.manual_seed(0)
    drnd, (seen, unseen) = DRND(SPACE, ACTIONS, alpha=0.0, learning_rate=1e-3, normalize_observations=False), rooms()
    for _ in range(200):
        drnd.update(steps_to(seen))
    often, never = drnd.compute(steps_to(seen)), drnd.compute(steps_to(unseen))
    assert often.mean() < 0.3 and never.mean() > 0.8 and never.max() <= 1


@pytest.mark.parametrize(
    ("reward_class", "kwargs", "named"),
    [
        (RND, {"update_proportion": 0}, "update_proportion"),
        (RND, {"update_proportion": 1.5}, "update_proportion"),
        (RND, {"latent_dim": 0}, "latent_dim"),
        (RND, {"learning_rate": -1}, "learning_rate"),
        (RND, {"batch_size": 0}, "batch_size"),
        (RND, {"max_grad_norm": 0}, "max_grad_norm"),
        (DRND, {"n_targets": 1}, "n_targets"),
        (DRND, {"n_targets": 2.5}, "n_targets"),
        (DRND, {"alpha": 1.1}, "alpha"),
    ],
)
def test_arguments_out_of_range_are_named(reward_class, kwargs, named):
    with pytest.raises(ValueError, match=rf"{named}.*{next(iter(kwargs.values()))}"):
        reward_class(SPACE, ACTIONS, **kwargs)
