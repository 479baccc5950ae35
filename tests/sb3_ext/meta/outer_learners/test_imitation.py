"""What a reward network imitates: payments by the dense reward, as a teacher of agents and as the lesson of the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.tasks import PointGoal
from sb3_ext.meta import LifetimeVecEnv
from sb3_ext.meta.lifetimes.dense_rewards import Target, bounded_dense_rewards
from sb3_ext.meta.outer_learners.evaluation import run_lifetimes
from sb3_ext.meta.outer_learners.imitation import expectile_loss, imitation_lesson, running_sums
from sb3_ext.meta.outer_learners.lifetime_collection import Job, collect
from sb3_ext.meta.outer_learners.policies import MetaRewardNetwork

INNER = {"n_steps": 40, "n_batches": 3, "n_epochs": 2, "n_minibatches": 4, "net_arch": (8,)}


def test_progress_is_the_growth_of_a_potential() -> None:
    """An episode of three steps and one of two; r in units of a mean size of 2."""
    shaped = np.array([2.0, 4, 0, 6, 6])[:, None]
    goes_on, scale = np.array([0, 1, 1, 0, 1])[:, None], np.array([2.0])
    assert bounded_dense_rewards("reward", shaped, goes_on, scale).ravel() == pytest.approx(np.arctan([1, 2, 0, 3, 3]))
    progress = bounded_dense_rewards("progress", shaped, goes_on, scale).ravel()
    grown = np.arcsinh(20) - np.arcsinh(10), -np.arcsinh(20)
    assert progress == pytest.approx([0, np.arctan(5 * grown[0]), np.arctan(5 * grown[1]), 0, 0], rel=1e-6)
    small = bounded_dense_rewards(
        "progress", 1e-6 * shaped, goes_on, scale
    ).ravel()  # linear there: 5 * 10 / 2 times the growth
    assert small == pytest.approx(25e-6 * np.array([0, 2, -4, 0, 0]), rel=1e-4)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["steps", "batches"])
@pytest.mark.parametrize("target", ["reward", "progress"])
def test_a_taught_agent_is_paid_by_the_dense_reward(target: Target, bidirectional: bool) -> None:
    """Step by step, or each batch at its end: what the whole lifetime's dense rewards come to."""
    family = PointGoal()
    env = LifetimeVecEnv(family, 2, settings=INNER, env_kwargs={"max_episode_steps": 15}, seed=0)
    torch.manual_seed(0)
    network = MetaRewardNetwork(2, 2, bidirectional=bidirectional)
    paid: list[torch.Tensor] = []
    env.before_update = lambda batch, *_: paid.append(batch.rewards)
    known = {"scale": {"sparse/PointGoal-v0": [10**12, 0.05]}}  # so that the running scale stays
    result = collect(network, env, Job(3, 1, False, known, target))
    assert result is not None
    shaped, episodes = result.lifetimes.shaped.numpy(), result.lifetimes.episodes.numpy()
    goes_on = np.diff(episodes, axis=0, prepend=-1) == 0
    due = bounded_dense_rewards(target, shaped, goes_on, np.full(2, 0.05))[:80]
    given = torch.cat(paid).numpy()
    assert np.allclose(given[:, 0], due[:, 0], atol=1e-5) and due.std() > 0.1
    assert np.allclose(given[:, 1], result.lifetimes.payments[:80, 1], atol=1e-6)


def test_agents_can_be_paid_by_progress_alone() -> None:
    env = LifetimeVecEnv(PointGoal(), 2, "progress", settings=INNER, env_kwargs={"max_episode_steps": 15}, seed=0)
    paid: list[torch.Tensor] = []
    env.before_update = lambda batch, *_: paid.append(batch.rewards)
    env.set_state({"scale": {"sparse/PointGoal-v0": [10**12, 0.05]}})
    trace = run_lifetimes(env, "progress", 3)
    goes_on = ~np.concatenate([np.ones((1, 2), bool), trace.done[:-1]])
    due = bounded_dense_rewards("progress", trace.shaped, goes_on, np.full(2, 0.05))
    assert np.allclose(trace.payments, due, atol=1e-5) and np.allclose(torch.cat(paid).numpy(), due[:80], atol=1e-5)


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
    goes_on = torch.tensor([0.0, 1, 1, 0, 0, 1])[:, None]
    whole = running_sums(rewards, goes_on)
    assert whole.flatten().tolist() == [1, 3, 6, 4, 5, 11]
    first = running_sums(rewards[:2], goes_on[:2], torch.zeros(1, 1))
    assert torch.equal(torch.cat([first, running_sums(rewards[2:], goes_on[2:], first[-1:])]), whole)


def test_sums_of_episodes_are_imitated_until_the_first_success_and_single_steps_after_it() -> None:
    column = lambda *values: torch.tensor(values)[:, None]  # noqa: E731
    pay, goes_on = column(1.0, 2.0, 3.0, 4.0, 5.0), column(0.0, 1.0, 0.0, 1.0, 1.0)
    found, counts = column(False, False, False, True, True), column(True, True, True, True, False)
    sums, anew, expectiles, weights = imitation_lesson(pay, goes_on, found, counts, 0.9)
    assert sums.flatten().tolist() == [1.0, 3.0, 3.0, 4.0, 5.0] and anew.flatten().tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert torch.allclose(expectiles.flatten(), torch.tensor([0.9, 0.9, 0.9, 0.5, 0.5]))
    assert torch.allclose(weights.flatten(), torch.tensor([3 / 19, 3 / 19, 3 / 19, 1 / 16, 0.0]))
    mean = imitation_lesson(pay, goes_on, found, counts, 0.5)
    assert torch.equal(mean.sums, pay) and not mean.goes_on.any() and (mean.expectiles == 0.5).all()
