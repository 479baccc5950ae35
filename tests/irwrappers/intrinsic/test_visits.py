"""``Visits``: counts where states recur, episodic pseudo-counts where they do not."""

import gymnasium as gym
import pytest
import torch
from helpers.random_steps import random_steps
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
    env.close()


def test_it_is_the_reward_that_fits():
    space, actions = gym.spaces.Box(-3, 3, (2,)), gym.spaces.Discrete(2)
    for recurring in (True, False):
        torch.manual_seed(0)
        reward = make_intrinsic_reward("visits", space, actions)
        reward.decided.fill_(True)
        reward.recurring.fill_(recurring)
        name, part = reward._parts()[0]
        assert name == ("counts" if recurring else "pseudo_counts")
        batch = random_steps(0, n_steps=8, n_envs=2)
        del batch
        assert part is reward.rewards[0 if recurring else 1]


def test_without_fit_the_first_batch_decides():
    reward = make_intrinsic_reward("visits", gym.spaces.Box(-10, 10, (3,)), gym.spaces.Discrete(2))
    assert not reward.decided
