"""Imitation of the dense reward: rewards that follow from it, for agents and as targets of the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.tasks import PointGoal
from sb3_ext.meta import LifetimeVecEnv
from sb3_ext.meta.lifetimes.dense_rewards import Target, bounded_dense_rewards
from sb3_ext.meta.outer_learners.evaluation import run_lifetimes
from sb3_ext.meta.outer_learners.imitation import expectile_loss, imitation_targets, running_sums
from sb3_ext.meta.outer_learners.lifetime_collection import Job, collect
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork

INNER = {"n_steps": 40, "n_batches": 3, "n_epochs": 2, "n_minibatches": 4, "net_arch": (8,)}


def test_progress_is_the_growth_of_a_potential() -> None:
    """An episode of three steps and one of two; r in units of a mean size of 2."""
    shaped = np.array([2.0, 4, 0, 6, 6])[:, None]
    continues, scale = np.array([0, 1, 1, 0, 1])[:, None], np.array([2.0])
    assert bounded_dense_rewards("reward", shaped, continues, scale).ravel() == pytest.approx(np.arctan([1, 2, 0, 3, 3]))
    progress = bounded_dense_rewards("progress", shaped, continues, scale).ravel()
    grown = np.arcsinh(20) - np.arcsinh(10), -np.arcsinh(20)
    assert progress == pytest.approx([0, np.arctan(5 * grown[0]), np.arctan(5 * grown[1]), 0, 0], rel=1e-6)
    small = bounded_dense_rewards(
        "progress", 1e-6 * shaped, continues, scale
    ).ravel()  # linear there: 5 * 10 / 2 times the growth
    assert small == pytest.approx(25e-6 * np.array([0, 2, -4, 0, 0]), rel=1e-4)


@pytest.mark.parametrize("target", ["reward", "progress"])
def test_an_agent_of_imitation_receives_the_dense_reward(target: Target) -> None:
    """Step by step it receives what follows from the dense rewards of the whole lifetime."""
    family = PointGoal()
    env = LifetimeVecEnv(family, 2, settings=INNER, env_kwargs={"max_episode_steps": 15}, seed=0)
    torch.manual_seed(0)
    network = MetaRewardNetwork(2, 2)
    received: list[torch.Tensor] = []
    env.before_update = lambda batch, *_: received.append(batch.rewards)
    known = {"scale": {"sparse/PointGoal-v0": [10**12, 0.05]}}  # so that the running scale stays
    result = collect(network, env, Job(3, 1, False, known, target))
    assert result is not None
    shaped, episodes = result.lifetimes.shaped.numpy(), result.lifetimes.episodes.numpy()
    continues = np.diff(episodes, axis=0, prepend=-1) == 0
    expected = bounded_dense_rewards(target, shaped, continues, np.full(2, 0.05))[:80]
    given = torch.cat(received).numpy()
    assert np.allclose(given[:, 0], expected[:, 0], atol=1e-5) and expected.std() > 0.1
    assert np.allclose(given[:, 1], result.lifetimes.agent_rewards[:80, 1], atol=1e-6)


def test_agents_can_receive_the_progress_alone() -> None:
    env = LifetimeVecEnv(PointGoal(), 2, "progress", settings=INNER, env_kwargs={"max_episode_steps": 15}, seed=0)
    received: list[torch.Tensor] = []
    env.before_update = lambda batch, *_: received.append(batch.rewards)
    env.set_state({"scale": {"sparse/PointGoal-v0": [10**12, 0.05]}})
    trace = run_lifetimes(env, "progress", 3)
    continues = ~np.concatenate([np.ones((1, 2), bool), trace.done[:-1]])
    expected = bounded_dense_rewards("progress", trace.shaped, continues, np.full(2, 0.05))
    assert np.allclose(trace.rewards, expected, atol=1e-5) and np.allclose(
        torch.cat(received).numpy(), expected[:80], atol=1e-5
    )


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_an_expectile_of_a_coin_is_its_tau(expectile: float) -> None:
    """Of 0 and 1 with equal odds: τ (1 − e) = (1 − τ) e."""
    guess = torch.tensor(expectile, dtype=torch.float64, requires_grad=True)
    coin = torch.tensor([0.0, 1.0], dtype=torch.float64)
    loss = expectile_loss(guess.expand(2), coin, expectile).mean()
    (gradient,) = torch.autograd.grad(loss, guess)
    assert gradient.item() == pytest.approx(0, abs=1e-12)
    assert loss.item() == pytest.approx(expectile * (1 - expectile))  # at the mean: its variance


def test_running_sums_begin_anew_with_each_episode() -> None:
    """Episodes of 3, 1 and 2 steps, as a whole and cut in two."""
    rewards = torch.tensor([1.0, 2, 3, 4, 5, 6])[:, None]
    continues = torch.tensor([0.0, 1, 1, 0, 0, 1])[:, None]
    whole = running_sums(rewards, continues)
    assert whole.flatten().tolist() == [1, 3, 6, 4, 5, 11]
    first = running_sums(rewards[:2], continues[:2], torch.zeros(1, 1))
    assert torch.equal(torch.cat([first, running_sums(rewards[2:], continues[2:], first[-1:])]), whole)


def test_sums_of_episodes_are_imitated_until_the_first_success_and_single_steps_after_it() -> None:
    column = lambda *values: torch.tensor(values)[:, None]  # noqa: E731
    rewards, continues = column(1.0, 2.0, 3.0, 4.0, 5.0), column(0.0, 1.0, 0.0, 1.0, 1.0)
    found, counts = column(False, False, False, True, True), column(True, True, True, True, False)
    sums, anew, expectiles, weights = imitation_targets(rewards, continues, found, counts, 0.9)
    assert sums.flatten().tolist() == [1.0, 3.0, 3.0, 4.0, 5.0] and anew.flatten().tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert torch.allclose(expectiles.flatten(), torch.tensor([0.9, 0.9, 0.9, 0.5, 0.5]))
    assert torch.allclose(weights.flatten(), torch.tensor([3 / 19, 3 / 19, 3 / 19, 1 / 16, 0.0]))
    mean = imitation_targets(rewards, continues, found, counts, 0.5)
    assert torch.equal(mean.sums, rewards) and not mean.continues.any() and (mean.expectiles == 0.5).all()
