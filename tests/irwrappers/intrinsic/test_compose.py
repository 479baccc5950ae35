"""Several rewards as one, and rewards by name."""

import pytest
import torch
from gymnasium import spaces
from helpers.random_steps import QUICK, B, T, build, fitted, make_env, random_steps

import envs  # noqa: F401  (registers sparse/…)
from irwrappers import Concat, IntrinsicReward, make_intrinsic_reward

# Composition


def test_concat_is_its_parts_side_by_side():
    env, batch = make_env(), random_steps()
    parts = [fitted("laplacian"), fitted("random")]
    both = Concat(parts)
    assert both.n_rewards == sum(part.n_rewards for part in parts)
    assert torch.equal(both.compute(batch), torch.cat([part.compute(batch) for part in parts], -1))
    assert not both.needs_fit and both.fit(env, 1000) == 0
    with pytest.raises(ValueError, match="at least one"):
        Concat([])


def test_concat_logs_each_part_under_its_own_name():
    class Counting(IntrinsicReward):
        n_rewards = 1

        def update(self, batch):
            return {"steps": float(batch.n_steps * batch.n_envs)}

    space = make_env().observation_space
    logged = Concat([Counting(space, spaces.Discrete(4)), Counting(space, spaces.Discrete(4))]).update(random_steps())
    assert len(logged) == 2 and set(logged.values()) == {float(T * B)}


def test_concat_stays_within_the_budget():
    env = make_env()
    parts = [{"allo": QUICK["allo"] | {"n_walks": 1000}}] * 2
    both = make_intrinsic_reward(parts, env.observation_space, env.action_space)
    assert 0 < both.fit(env, 1000, seed=0) <= 1000


def test_by_name_by_instance_by_list():
    env = make_env()
    space = (env.observation_space, env.action_space)
    instance = build("random")
    assert make_intrinsic_reward(instance, *space) is instance
    mixed = make_intrinsic_reward(["laplacian", {"random": {"n_rewards": 2}}, instance], *space)
    assert mixed.n_rewards == 6 + 2 + instance.n_rewards
    with pytest.raises(ValueError, match=r"'alo'.*allo.*Did you mean 'allo'"):
        make_intrinsic_reward("alo", *space)
    with pytest.raises(ValueError, match="n_rewards"):
        make_intrinsic_reward(instance, *space, n_rewards=2)
    with pytest.raises(ValueError, match=r"\[\]"):
        make_intrinsic_reward([], *space)
