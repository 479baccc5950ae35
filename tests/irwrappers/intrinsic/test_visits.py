"""``Visits``: counts where states recur, episodic pseudo-counts where they do not."""

import pytest
import torch
from helpers.random_steps import build, make_env, random_steps
from stable_baselines3.common.env_util import make_vec_env

import envs  # noqa: F401 (registers sparse/…)
from irwrappers import make_intrinsic_reward


@pytest.mark.parametrize(
    ("env_id", "recurring"),
    [("sparse/GridLadder3-v0", True), ("FrozenLake-v1", True), ("MountainCarContinuous-v0", False), ("Pendulum-v1", False)],
)
def test_random_steps_decide_whether_states_recur(env_id, recurring):
    env = make_vec_env(env_id, n_envs=4, seed=0)
    reward = make_intrinsic_reward("visits", env.observation_space, env.action_space)
    assert reward.needs_fit
    steps = reward.fit(env, 4000, seed=0)
    assert bool(reward.recurring) is recurring and not reward.needs_fit
    assert (steps == 1000) is recurring and steps <= 4000  # pseudo-counts take further steps for their normalisation


@pytest.mark.parametrize("recurring", [True, False])
def test_it_is_the_reward_that_fits(recurring):
    reward, batch = build("visits"), random_steps()
    reward.recurring.fill_(recurring)
    reward.decided.fill_(True)
    reward.fit(make_env(), 2000, seed=0)
    part = reward.rewards[0 if recurring else 1]
    for _ in range(2):
        assert torch.equal(reward.compute(batch), part.compute(batch))
        reward.update(batch)
    assert reward.compute(batch).std() > 0


def test_without_fit_the_first_batch_decides():
    reward = build("visits")
    log = reward.update(random_steps(n_steps=200))  # counts before these steps
    assert reward.decided and reward.recurring and log == {"counts/states": 0}


def test_a_budget_below_a_step_of_each_environment_is_refused():
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        build("visits").fit(make_env(2), 1)
