"""The meta-advantage against its definition, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sb3_ext.meta.outer_learners.meta_advantage import meta_advantage, paper_horizons


def random_lifetimes(seed: int, steps: int = 60, agents: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(steps, agents, generator=generator, dtype=torch.float64)
    values = torch.randn(steps, agents, generator=generator, dtype=torch.float64)
    ended = torch.rand(steps, agents, generator=generator) < 0.2
    episodes = torch.cat([torch.zeros(1, agents, dtype=torch.long), ended.long().cumsum(0)[:-1]])
    return rewards, values, episodes


def written_out(
    rewards: Tensor,
    values: Tensor,
    episodes: Tensor,
    b: int,
    gamma: float,
    horizons: list[int],
    fallback: list[int],
    skip: bool,
) -> tuple[Tensor, Tensor]:
    steps, agents = rewards.shape
    result, defined = torch.zeros_like(rewards), torch.zeros_like(rewards, dtype=torch.bool)
    for t in range(steps):
        for k in range(agents):
            u = b - t % b if skip else 0
            for family in (horizons, fallback):
                terms = []
                for i, n in enumerate(family):
                    if not (u < n and t + n < steps):
                        continue
                    first = int(episodes[t + u, k])
                    received = sum(gamma ** (int(episodes[m, k]) - first) * float(rewards[m, k]) for m in range(t + u, t + n))
                    after = gamma ** (int(episodes[t + n, k]) - first) * float(values[t + n, k])
                    terms.append((0.85**i, received + after - float(values[t, k])))
                if terms:
                    result[t, k] = sum(w * x for w, x in terms) / sum(w for w, _ in terms)
                    defined[t, k] = True
                    break
    return result, defined


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_definition(seed: int, skip: bool) -> None:
    rewards, values, episodes = random_lifetimes(seed)
    horizons, fallback = [22, 25, 28], [1, 4, 7]
    given = {"steps_per_update": 20, "gamma": 0.9, "horizons": horizons, "fallback": fallback, "skip": skip}
    result = meta_advantage(rewards, values, episodes, **given)
    expected, defined = written_out(rewards, values, episodes, 20, 0.9, horizons, fallback, skip)
    assert torch.equal(result.defined, defined)
    assert torch.allclose(result.advantages, expected, atol=1e-12)
    assert defined.any() and not defined.all()


def test_rewards_before_the_next_update_have_no_weight() -> None:
    rewards, values, episodes = random_lifetimes(0)
    rewards.requires_grad_(True)
    result = meta_advantage(
        rewards, values, episodes, steps_per_update=20, gamma=0.9, horizons=[22, 25], fallback=[1, 4, 7, 10, 13, 16, 19]
    )
    for t in (0, 7, 19, 20, 31):
        (weight,) = torch.autograd.grad(result.advantages[t].sum(), rewards, retain_graph=True)
        update = t + 20 - t % 20
        assert not weight[:update].any()
        assert weight[update].all()


def test_the_papers_horizons_leave_no_step_out_before_the_last_update() -> None:
    horizons, fallback = paper_horizons(2000)
    assert horizons == [2200, 2500, 2800, 3100, 3400, 3700]
    assert fallback == [1, 301, 601, 901, 1201, 1501]
    zeros = torch.zeros(6000, 1)
    result = meta_advantage(zeros, zeros, zeros.long(), steps_per_update=2000, gamma=0.9, horizons=horizons, fallback=fallback)
    assert result.defined[:4000].all()
    assert not result.defined[4000:].any()


def test_hundreds_of_episodes_lose_no_precision() -> None:
    steps = 4000
    rewards, values = torch.ones(steps, 1), torch.zeros(steps, 1)
    episodes = torch.arange(steps)[:, None]  # an episode a step: 0.9^4000 is no float32
    result = meta_advantage(rewards, values, episodes, steps_per_update=1, gamma=0.9, horizons=[200], fallback=[])
    assert torch.allclose(result.advantages[:3000], torch.tensor(10.0), atol=1e-4)
